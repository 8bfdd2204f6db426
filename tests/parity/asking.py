"""The same bytes, asked of MLflow's server and of ours."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import mlflow
import pytest
from fastapi import FastAPI
from mlflow.pyfunc.scoring_server import init

from penstock.gateway.http.errors import STATUS_OF
from penstock.gateway.http.scoring.formats import MlflowFormat
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface, ReplicaSettings
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.contracts.findings import Finding
from penstock.shared.wire.messages import Request
from penstock.worker.control.messages import LoadFailed, Ready, Start
from penstock.worker.replica.executor import run_batch
from penstock.worker.replica.loading import Loaded, load
from penstock.worker.runtimes.base import Runtime
from penstock.worker.session.outcomes import Completed, Failed
from tests.fault.served import Served
from tests.parity.bodies import Body
from tests.parity.cases import Case
from tests.parity.differences import REASONS, Answer, difference
from tests.parity.table import FORMS, Noted, write

SETTINGS = ReplicaSettings(threads=1, max_batch_size=64)
TABLE = "PENSTOCK_PARITY"
"""The variable that names the folder for the table of docs/models.md."""


def marked(case: Case) -> object:
    """A case as a parameter of a test."""
    return pytest.param(case, id=case.id, marks=[] if case.quick else pytest.mark.long)


async def check(case: Case, system: Served, work: Path) -> None:
    """See that a model answers as MLflow's server does, but for what has a reason."""
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make .venv/.installed-parity")
    folder = work / "m"
    case.make(folder)
    bodies = case.bodies()
    theirs = await ask_mlflow(folder, bodies)
    if case.quick or case.served or TABLE in os.environ:
        ours, finding = await ask_system(system, case.id, folder, bodies)
    else:
        ours, finding = ask_code(case.id, folder, bodies)
    triples = zip(bodies, theirs, ours, strict=True)
    found = {body.form: difference(a, b, case.volatile) for body, a, b in triples}
    _note_found(case.id, bodies, found, finding)
    assert {form: why for form, why in found.items() if why and why not in REASONS} == {}


async def ask_mlflow(folder: Path, bodies: Sequence[Body]) -> list[Answer]:
    """What MLflow's server answers; where its own code falls over, that is a 500."""
    app: FastAPI = init(mlflow.pyfunc.load_model(str(folder)))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
        answers = [await _answer(client, "/invocations", body) for body in bodies]
    gc.collect()
    return answers


async def ask_system(
    system: Served, model: str, folder: Path, bodies: Sequence[Body]
) -> tuple[list[Answer], Finding]:
    """What a gateway answers, with a replica behind it."""
    child = system.spawn(folder, model=model, settings=SETTINGS)
    try:
        message = child.hear((Ready, LoadFailed))
        assert isinstance(message, Ready), message
        system.until_ready(model, 1)
        return await ask_gateway(system.port, model, bodies), message.finding
    finally:
        child.end()


async def ask_gateway(port: int, model: str, bodies: Sequence[Body]) -> list[Answer]:
    """What a gateway answers."""
    url, path = f"http://127.0.0.1:{port}", f"/v2/models/{model}/invocations"
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        return [await _answer(client, path, body) for body in bodies]


def ask_code(model: str, folder: Path, bodies: Sequence[Body]) -> tuple[list[Answer], Finding]:
    """What gateway and replica would make of it, one after the other in this process."""
    start = Start(
        key=model,
        replica=model,
        worker="w",
        model=model,
        version="1",
        revision=f"{model}/1",
        model_path=str(folder),
        settings=SETTINGS,
        device="cpu",
    )
    loaded = load(start)
    assert isinstance(loaded, Loaded), loaded
    interface = loaded.finding.announced
    return [_by_code(loaded.runtime, interface, body) for body in bodies], loaded.finding


def _by_code(runtime: Runtime, interface: ModelInterface, body: Body) -> Answer:
    words, headers = MlflowFormat(), {b"content-type": body.kind.encode()}
    try:
        words.check(headers)
        parsed = words.parse(body.content, headers, interface)
        request = Request(1, 10**9, parsed.inputs, parameters=parsed.parameters)
        outcome = run_batch(runtime, [request])
        if isinstance(outcome, Failed):
            failure = outcome.failure("m", "1")
            error = PenstockError(failure.code, failure.message)
            error.attempts = 1
            raise error
        assert isinstance(outcome, Completed)
        answer = InferenceAnswer("m", "1", outcome.outputs[0], 0.0, 0.0, 1)
        return Answer(200, b"".join(words.build(answer, parsed).parts))
    except PenstockError as error:
        return Answer(int(STATUS_OF[error.code]), words.error_body(error))


async def _answer(client: httpx.AsyncClient, path: str, body: Body) -> Answer:
    found = await client.post(path, content=body.content, headers={"content-type": body.kind})
    return Answer(found.status_code, found.content)


def _note_found(
    model: str, bodies: Sequence[Body], found: Mapping[str, str], finding: Finding
) -> None:
    """For the table, if one is wished for."""
    if TABLE not in os.environ:
        return
    words = {body.form.split(" ")[0] for body in bodies}
    noted = Noted(
        model=model,
        forms=tuple(sorted(words & set(FORMS))),
        asked=len(bodies),
        differences=dict(Counter(filter(None, found.values()))),
        scoring=finding.interface.scoring,
        max_batch_size=finding.rows_merged,
        reason=finding.reason,
    )
    write(Path(os.environ[TABLE]), noted)

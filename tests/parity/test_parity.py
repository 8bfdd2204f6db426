"""The same bytes go to MLflow's own scoring server and to ours; the answers are the same."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import mlflow
import pytest
from fastapi import FastAPI
from mlflow.pyfunc.scoring_server import init

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.findings import Finding
from penstock.worker.control.messages import LoadFailed, Ready
from tests.fault.served import Served, served
from tests.parity import agents, boosted, graphs, python_models, scikit, texts
from tests.parity.bodies import Body, of_frame
from tests.parity.cases import Case
from tests.parity.differences import REASONS, Answer, difference
from tests.parity.table import FORMS, Noted, write

pytestmark = [pytest.mark.costly, pytest.mark.timeout(300), pytest.mark.filterwarnings("default")]

CASES: Sequence[Case] = [
    *scikit.CASES,
    *python_models.CASES,
    *agents.CASES,
    *graphs.CASES,
    *texts.CASES,
    *boosted.CASES,
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("parity") / "gateway.log") as system:
        yield system


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MLflow writes to where nothing else is said is to lie in no checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")


def note_found(
    model: str, bodies: Sequence[Body], found: Mapping[str, str], finding: Finding
) -> None:
    """For the table of docs/models.md, if one is wished for."""
    folder = os.environ.get("PENSTOCK_PARITY")
    if folder is None:
        return
    forms = sorted({body.form.split(" ")[0] for body in bodies if body.form.split(" ")[0] in FORMS})
    noted = Noted(
        model=model,
        forms=tuple(forms),
        asked=len(bodies),
        differences=dict(Counter(filter(None, found.values()))),
        scoring=finding.interface.scoring,
        max_batch_size=finding.rows_merged,
        reason=finding.reason,
    )
    write(Path(folder), noted)


def marked(case: Case) -> object:
    return pytest.param(case, id=case.id, marks=[] if case.quick else pytest.mark.long)


async def ask_mlflow(app: FastAPI, bodies: Sequence[Body]) -> list[Answer]:
    """What MLflow's server answers; it ends in an exception where its own code does."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://mlflow") as client:
        return [await _answer(client, "/invocations", body) for body in bodies]


async def ask_us(port: int, model: str, bodies: Sequence[Body]) -> list[Answer]:
    url, path = f"http://127.0.0.1:{port}", f"/v2/models/{model}/invocations"
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        return [await _answer(client, path, body) for body in bodies]


async def _answer(client: httpx.AsyncClient, path: str, body: Body) -> Answer:
    found = await client.post(path, content=body.content, headers={"content-type": body.kind})
    return Answer(found.status_code, found.content)


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
async def test_a_model_answers_as_mlflows_server_does(
    case: Case, system: Served, tmp_path: Path
) -> None:
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make .venv/.installed-parity")
    folder = tmp_path / "m"
    case.make(folder)
    bodies = case.bodies()
    theirs = await ask_mlflow(init(mlflow.pyfunc.load_model(str(folder))), bodies)
    gc.collect()
    child = system.spawn(
        folder, model=case.id, settings=ReplicaSettings(threads=1, max_batch_size=64)
    )
    try:
        message = child.hear((Ready, LoadFailed))
        assert isinstance(message, Ready), message
        system.until_ready(case.id, 1)
        ours = await ask_us(system.port, case.id, bodies)
    finally:
        child.end()
    triples = zip(bodies, theirs, ours, strict=True)
    found = {body.form: difference(a, b, case.volatile) for body, a, b in triples}
    note_found(case.id, bodies, found, message.finding)
    assert {form: why for form, why in found.items() if why and why not in REASONS} == {}


async def test_answers_that_replicas_word_are_each_callers_own(
    system: Served, tmp_path: Path
) -> None:
    """Requests share executions, and no text, missing or not, gets into another's answer."""
    folder = tmp_path / "m"
    python_models.telling_texts(folder)
    bodies = [body for each in python_models.TOLD for body in of_frame(each, (1, 2))]
    theirs = await ask_mlflow(init(mlflow.pyfunc.load_model(str(folder))), bodies)
    settings = ReplicaSettings(threads=1, max_batch_size=16)
    child = system.spawn(folder, model="texts", settings=settings)
    try:
        message = child.hear((Ready, LoadFailed))
        assert isinstance(message, Ready), message
        assert message.finding.interface.scoring == "rows", message.finding
        system.until_ready("texts", 1)
        asking = [ask_us(system.port, "texts", bodies) for _ in range(16)]
        everybody = await asyncio.gather(*asking)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{system.port}") as client:
            (stats,) = (await client.get("/v2/models/texts/stats")).json()["model_stats"]
    finally:
        child.end()
    for ours in everybody:
        pairs = zip(bodies, theirs, ours, strict=True)
        assert {body.form: why for body, a, b in pairs if (why := difference(a, b))} == {}
    assert stats["execution_count"] < stats["inference_count"], "batches formed"

"""Why a version does not serve, or serves badly, is found in one step: a command names the cause.

docs/operations.md has the table, "A version does not serve, or serves badly". Requests that fail,
and replicas that die with one, are in `test_evidence`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.folder import SWAP_TIMEOUT_S, folder_system
from tests.e2e.job_client import JobClient, numbers
from tests.e2e.system import LocalSystem, alive, penstock
from tests.support.mlflow_models import NUMBERS, python_model
from tests.support.models import affine
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

CAUSES = {
    "corrupt": "corrupt/1: ONNX Runtime cannot load model.onnx",
    "incomplete": "incomplete/1: FileNotFoundError: ",
    "needs": "needs/1: the environment lacks packages that the model needs: nosuchpackage==1.2",
    "imports": "imports/1: the model failed its warm-up with 1 row(s): ModuleNotFoundError: No ",
    "signature": "signature/1: the model failed its warm-up with 1 row(s): IndexError: ",
    "dies": "dies/1: ended 2 times while loading: ended by SIGABRT",
    "device": "device/1: no live worker has the device cuda:7",
    "role": "role/1: penstock.role is 'stabel', which is no role: use stable or off",
    "alias": "alias/1: alias champion names version '9', which is not there yet",
    "value": "tag/1: penstock.max_batch_size is 'ten', expected a number",
    "tag": "32 stays; penstock.replcias is no tag of Penstock",
}
"""What `penstock status` says, by mistake."""

LOAD_TIMEOUT_S = 90.0
"""Seven models are loaded side by side, which takes 15 s of two cores that nobody shares."""


def broken(folder: Path) -> None:
    """A model for each mistake."""

    def unchanged(x: Any, params: Any) -> Any:
        return x

    def importing(x: Any, params: Any) -> Any:
        import nosuchmodule  # type: ignore[import-not-found]  # noqa: PLC0415

        return nosuchmodule.predict(x)

    def by_name(x: Any, params: Any) -> Any:
        return x["width"]  # of columns, but the signature says a tensor

    def dying(x: Any, params: Any) -> Any:
        import os  # noqa: PLC0415 - runs in the replica

        os.abort()

    def greedy(x: Any, params: Any) -> Any:
        import numpy  # noqa: PLC0415 - runs in the replica

        return numpy.ones(1 << 44) if 55 in x else x

    write(folder / "corrupt" / "1" / "model.onnx", "weights")
    python_model(made(folder / "incomplete"), unchanged, NUMBERS)
    (folder / "incomplete" / "1" / "python_model.pkl").unlink()
    python_model(made(folder / "needs"), unchanged, NUMBERS)
    write(folder / "needs" / "1" / "requirements.txt", "nosuchpackage==1.2\n")
    python_model(made(folder / "imports"), importing, NUMBERS)
    example = np.ones(3)
    python_model(made(folder / "signature"), by_name, NUMBERS, example=example)
    python_model(made(folder / "dies"), dying, NUMBERS)
    python_model(made(folder / "greedy"), greedy, NUMBERS)
    for model in ("device", "role", "alias", "tag"):
        affine(made(folder / model), 2.0)
    write(folder / "device" / "1" / "tags.yaml", "penstock.device: cuda:7\n")
    write(folder / "role" / "1" / "tags.yaml", "penstock.role: stabel\n")
    write(folder / "alias" / "tags.yaml", "aliases: {champion: 9}\n")
    write(folder / "tag" / "tags.yaml", "penstock.replcias: 2\npenstock.max_batch_size: ten\n")


def made(model: Path) -> Path:
    """The folder of a model's version 1, which is not there yet."""
    model.mkdir()
    return model / "1"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    base = tmp_path_factory.mktemp("broken")
    system = folder_system(base)
    system.environment["PENSTOCK_LOAD_BACKOFF_S"] = "200"  # none is tried again while it is read
    broken(base / "models")
    processes: set[int] = set()
    try:
        system.start()
        yield system
        processes = system.processes()
    finally:
        system.stop(signal.SIGINT)
    assert not any(map(alive, processes))


@pytest.fixture(scope="module")
def shown(system: LocalSystem) -> str:
    """What `penstock status` prints once each mistake has come to light."""
    for mistake in CAUSES:
        wait_until(lambda: CAUSES[mistake] in said(system), LOAD_TIMEOUT_S, mistake, 0.2)  # noqa: B023
    return penstock("status", "--data-dir", str(system.data_dir)).stdout


def said(system: LocalSystem) -> str:
    versions = [
        (model["model"], each) for model in system.status()["models"] for each in model["versions"]
    ]
    return "\n".join(f"{name}/{each['version']}: {each['message']}" for name, each in versions)


@pytest.mark.parametrize("mistake", CAUSES)
def test_status_names_what_is_wrong_with_a_version(shown: str, mistake: str) -> None:
    assert CAUSES[mistake] in shown, shown


def test_history_and_wait_and_logs_name_the_same_cause(system: LocalSystem, shown: str) -> None:
    assert CAUSES["signature"] in shown
    where = ("--data-dir", str(system.data_dir))
    cause = "the model failed its warm-up with 1 row(s): IndexError: "
    assert cause in penstock("history", "signature", *where).stdout
    waited = penstock("wait", "signature", "--timeout", "0", *where)
    assert (waited.returncode, cause in waited.stdout) == (3, True)
    lines = penstock("logs", "--model", "signature", *where).stdout
    assert "in by_name" in lines, "where in the model's code it was raised"
    never = penstock("wait", "alias", "--timeout", "0", *where)
    assert (never.returncode, "names version '9'" in never.stdout) == (1, True)


def test_a_request_that_takes_too_much_memory_is_found_by_its_id(system: LocalSystem) -> None:
    wait_until(lambda: system.get("/v2/models/greedy/ready")[0] == 200, SWAP_TIMEOUT_S, "it serves")
    answer = JobClient(system.url).http.post("/v2/models/greedy/infer", json=numbers(55))
    assert (answer.status_code, "ran out of memory" in answer.text) == (500, True)
    request_id = answer.headers["x-request-id"]
    lines = penstock("logs", "--request", request_id, "--data-dir", str(system.data_dir)).stdout
    assert "code=out_of_memory" in lines
    assert "Unable to allocate" in lines
    wait_until(
        lambda: "memory ran out at 1" in said(system), SWAP_TIMEOUT_S, "its status says so", 0.2
    )

"""`penstock up --models`: no MLflow; what is put into the folder serves, also under load."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.folder import (
    SWAP_TIMEOUT_S,
    Multiplying,
    answers_with,
    folder_system,
    multiply,
    put_affine,
    status_of,
)
from tests.e2e.system import LocalSystem, alive, penstock
from tests.support.models import affine
from tests.support.waiting import wait_until

CLIENTS = 2

pytestmark = pytest.mark.timeout(240)


def put_mlflow_model(version: Path, scale: float) -> None:
    """A folder as MLflow logs it, with a signature that names the tensors."""

    def side(name: str) -> str:
        tensor = {"dtype": "float32", "shape": [-1, 2]}
        return json.dumps([{"name": name, "type": "tensor", "tensor-spec": tensor}])

    affine(version, scale)
    (version / "model.onnx").rename(version / "graph.onnx")
    mlmodel = {
        "flavors": {"onnx": {"data": "graph.onnx"}},
        "signature": {"inputs": side("x"), "outputs": side("y")},
    }
    (version / "MLmodel").write_text(yaml.safe_dump(mlmodel))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """Two models: `bare`, a file, and `logged`, as MLflow would have it. Tests put new scales."""
    base = tmp_path_factory.mktemp("folder")
    system = folder_system(base)
    affine(base / "models" / "bare" / "1", 2.0)
    put_mlflow_model(base / "models" / "logged" / "1", 3.0)
    put_mlflow_model(base / "models" / "logged" / "2", 4.0)
    (base / "models" / "logged" / "1" / "tags.yaml").write_text("penstock.role: stable\n")
    processes: set[int] = set()
    try:
        system.start()
        yield system
        processes = system.processes()
    finally:
        exit_code = system.stop(signal.SIGINT)
    assert exit_code == 0, system.output
    assert not any(map(alive, processes))


@pytest.fixture
def models(system: LocalSystem) -> Path:
    return system.data_dir.parent / "models"


def test_both_kinds_of_model_serve_and_no_mlflow_runs(system: LocalSystem, models: Path) -> None:
    answers_with(system, "bare", 2.0, SWAP_TIMEOUT_S)
    answers_with(system, "logged", 3.0, SWAP_TIMEOUT_S)
    assert multiply(system.url, "logged", 2.0) == ("1", 6.0)
    assert status_of(models, "bare", 1) == ("serving", "")
    assert "a folder; no MLflow server is started" in system.output
    assert "mlflow" not in system.system_file()["processes"]


async def under_load(
    system: LocalSystem, model: str, scales: set[float], change: Callable[[], None]
) -> Multiplying:
    """Make a change under load, and wait until it shows."""
    load = Multiplying(system.url, model, scales)
    running = asyncio.create_task(load.run(CLIENTS))
    try:
        await asyncio.sleep(0.5)
        await asyncio.to_thread(change)
        await asyncio.sleep(0.5)
    finally:
        load.stopped = True
        await running
    assert load.failures == []
    assert set(load.answered) == scales
    return load


async def test_a_file_is_edited_in_place_under_load(system: LocalSystem, models: Path) -> None:
    answers_with(system, "bare", 2.0, SWAP_TIMEOUT_S)

    def edit() -> None:
        put_affine(models / "bare" / "1", 5.0)
        answers_with(system, "bare", 5.0, SWAP_TIMEOUT_S)

    await under_load(system, "bare", {2.0, 5.0}, edit)
    assert multiply(system.url, "bare", 1.0)[0] == "1"


async def test_tags_swap_under_load(system: LocalSystem, models: Path) -> None:
    answers_with(system, "logged", 3.0, SWAP_TIMEOUT_S)

    def tag() -> None:
        (models / "logged" / "2" / "tags.yaml").write_text("penstock.role: stable\n")
        answers_with(system, "logged", 4.0, SWAP_TIMEOUT_S)
        (models / "logged" / "tags.yaml").write_text("aliases: {champion: 1}\n")
        answers_with(system, "logged", 3.0, SWAP_TIMEOUT_S)

    await under_load(system, "logged", {3.0, 4.0}, tag)


async def test_a_broken_file_changes_nothing_for_traffic(system: LocalSystem, models: Path) -> None:
    put_affine(models / "bare" / "1", 6.0)
    answers_with(system, "bare", 6.0, SWAP_TIMEOUT_S)
    file = models / "bare" / "1" / "model.onnx"
    whole = file.read_bytes()

    def break_it() -> None:
        file.write_bytes(b"no graph")
        wait_until(
            lambda: "its change failed" in status_of(models, "bare", 1)[1],
            SWAP_TIMEOUT_S,
            "the operator is told",
        )

    await under_load(system, "bare", {6.0}, break_it)
    assert status_of(models, "bare", 1)[0] == "serving"
    (models / "bare" / "tags.yaml").write_text("penstock.role: [off\n")
    await asyncio.sleep(1.0)
    assert multiply(system.url, "bare", 1.0) == ("1", 6.0)
    system.kill()  # what served last is served again, though its file is broken still
    system.start()
    answers_with(system, "bare", 6.0, SWAP_TIMEOUT_S)
    answers_with(system, "logged", 3.0, SWAP_TIMEOUT_S)
    (models / "bare" / "tags.yaml").unlink()
    file.write_bytes(whole[:100])
    file.write_bytes(whole)
    wait_until(
        lambda: status_of(models, "bare", 1) == ("serving", ""),
        SWAP_TIMEOUT_S,
        "nothing is wrong any more",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "/nowhere/at/all"], "--models: /nowhere/at/all is no folder"),
        (["--models", "/tmp", "--mlflow-uri", "http://m"], "not both"),
        (["--models", "/tmp", "--demo"], "--demo logs its model to MLflow"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = penstock("up", "--data-dir", str(tmp_path / "data"), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "got {" not in done.stderr
    assert len(done.stderr.splitlines()) == 1

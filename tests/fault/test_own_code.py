"""What a model's own code may do beside predicting: signals, exit functions, files, processes."""

from __future__ import annotations

import asyncio
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.messages import Drained, DrainNow, LoadFailed, Ready
from penstock.worker.replica.orderly_end import END_S
from tests.support.agent_plane import agent_plane
from tests.support.data_plane import DataPlane, ReplicaChild, data_plane
from tests.support.mlflow_models import NUMBERS
from tests.support.waiting import eventually
from tests.unit.worker.agent_bench import lives

END_WAIT_S = END_S + 10.0


def loading(folder: Path, on_load: Callable[[Any], object]) -> Path:
    """y = x, after `on_load` was called with the model as it was loaded."""

    class Own(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def load_context(self, context: Any) -> None:
            on_load(self)

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input

    mlflow.pyfunc.save_model(
        str(folder), python_model=Own(), signature=NUMBERS, pip_requirements=[]
    )
    return folder


async def drained(plane: DataPlane, child: ReplicaChild) -> int:
    """Drain a replica; its exit code."""
    child.tell(DrainNow(grace_s=30.0))
    await asyncio.to_thread(child.hear, Drained)
    return await asyncio.to_thread(child.process.wait, END_WAIT_S)


async def test_a_model_may_handle_signals_as_in_a_server_of_mlflow(tmp_path: Path) -> None:
    notes = tmp_path / "notes"

    def handle(_: Any) -> None:
        import signal  # noqa: PLC0415 - runs in the replica

        signal.signal(signal.SIGUSR1, lambda *_: notes.write_text("handled"))

    async with data_plane() as plane:
        child = await plane.join(loading(tmp_path / "m", handle))
        os.kill(child.process.pid, 10)
        await eventually(notes.exists)


async def test_a_model_that_exits_while_it_loads_is_refused_at_once(tmp_path: Path) -> None:
    def leave(_: Any) -> None:
        import sys  # noqa: PLC0415 - runs in the replica

        sys.exit("no licence")

    async with data_plane() as plane:
        child = plane.spawn(loading(tmp_path / "m", leave))
        message = await asyncio.to_thread(child.hear, LoadFailed)
        assert isinstance(message, LoadFailed)
        assert "no licence" in message.message
        assert await asyncio.to_thread(child.process.wait, END_WAIT_S) == 3


@pytest.mark.parametrize("endless_thread", [False, True])
async def test_what_a_model_left_to_its_end_is_done_when_its_replica_was_drained(
    tmp_path: Path, endless_thread: bool
) -> None:
    def leave_open(model: Any) -> None:
        import atexit  # noqa: PLC0415 - runs in the replica
        import gzip as compress  # noqa: PLC0415
        import threading  # noqa: PLC0415
        import time  # noqa: PLC0415

        model.text = (tmp_path / "text").open("w")
        model.text.write("not flushed")
        model.packed = compress.open(tmp_path / "packed.gz", "wt")  # noqa: SIM115
        model.packed.write("not flushed")
        atexit.register(lambda: (tmp_path / "exit").write_text(threading.current_thread().name))
        if endless_thread:
            threading.Thread(target=lambda: time.sleep(1000)).start()

    async with data_plane() as plane:
        child = await plane.join(loading(tmp_path / "m", leave_open))
        assert await drained(plane, child) == 0
    assert (tmp_path / "exit").read_text() == ("loop" if endless_thread else "MainThread")
    assert (tmp_path / "text").read_text() == "not flushed"
    with gzip.open(tmp_path / "packed.gz", "rt") as packed:
        assert packed.read() == "not flushed"


async def test_what_a_model_registered_for_its_end_does_not_hold_it_up(tmp_path: Path) -> None:
    def hang(model: Any) -> None:
        import atexit  # noqa: PLC0415 - runs in the replica
        import time  # noqa: PLC0415

        model.text = (tmp_path / "text").open("w")
        model.text.write("not flushed")
        atexit.register(time.sleep, 1000)

    async with data_plane() as plane:
        child = await plane.join(loading(tmp_path / "m", hang))
        assert await drained(plane, child) == 0
    assert (tmp_path / "text").read_text() == "not flushed"


async def test_what_a_pool_of_a_model_still_has_to_do_is_done_at_its_end(tmp_path: Path) -> None:
    def begin(model: Any) -> None:
        import time  # noqa: PLC0415 - runs in the replica
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        def work(number: int) -> None:
            while not (tmp_path / "go").exists():
                time.sleep(0.01)
            (tmp_path / f"done-{number}").touch()

        model.pool = ThreadPoolExecutor(1)
        for number in range(3):
            model.pool.submit(work, number)

    async with data_plane() as plane:
        child = await plane.join(loading(tmp_path / "m", begin))
        child.tell(DrainNow(grace_s=30.0))
        await asyncio.to_thread(child.hear, Drained)
        (tmp_path / "go").touch()
        await asyncio.to_thread(child.process.wait, END_WAIT_S)
    assert all((tmp_path / f"done-{number}").exists() for number in range(3))


async def test_a_model_that_was_drained_under_an_agent_ends_in_time(tmp_path: Path) -> None:
    def note(_: Any) -> None:
        import atexit  # noqa: PLC0415 - runs in the replica

        atexit.register(lambda: (tmp_path / "exit").write_text("done"))

    folder = loading(tmp_path / "m", note)
    async with agent_plane(folder, 1, ReplicaSettings(threads=1)) as plane:
        (replica,) = await plane.replicas()
        assert await plane.infer(7) == 7
        plane.agent.stop()
        await eventually(lambda: not lives(replica.pid or 0))
    assert (tmp_path / "exit").read_text() == "done"


@pytest.mark.parametrize("name", ["shared", "worker", "gateway", "registry_sync", "deploy"])
async def test_a_model_may_bring_a_package_that_is_called_like_one_of_ours(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "magic.py").write_text("FACTOR = 7.0\n")

    class Own(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def load_context(self, context: Any) -> None:
            import importlib  # noqa: PLC0415 - runs in the replica

            self.factor = importlib.import_module(f"{name}.magic").FACTOR

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input * self.factor

    mlflow.pyfunc.save_model(
        str(tmp_path / "m"),
        python_model=Own(),
        signature=NUMBERS,
        pip_requirements=[],
        code_paths=[str(tmp_path / name)],
    )
    async with data_plane() as plane:
        child = plane.spawn(tmp_path / "m")
        message = await asyncio.to_thread(child.hear, (Ready, LoadFailed))
        assert isinstance(message, Ready), message

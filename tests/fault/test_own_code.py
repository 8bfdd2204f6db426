"""What a model's own code may do beside predicting: signals, exit functions, files, processes."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow

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


def leaving_open(folder: Path, endless_thread: bool) -> Callable[[Any], object]:
    """Has a model leave to its end files in `folder`, a function, and maybe a thread."""

    def leave_open(model: Any) -> None:
        import atexit  # noqa: PLC0415 - runs in the replica
        import gzip as compress  # noqa: PLC0415
        import threading  # noqa: PLC0415
        import time  # noqa: PLC0415

        model.text = (folder / "text").open("w")
        model.text.write("not flushed")
        model.packed = compress.open(folder / "packed.gz", "wt")  # noqa: SIM115
        model.packed.write("not flushed")
        atexit.register(lambda: (folder / "exit").write_text(threading.current_thread().name))
        if endless_thread:
            threading.Thread(target=lambda: time.sleep(1000)).start()

    return leave_open


def finished_in(folder: Path, thread: str) -> None:
    """What `leaving_open` left was done, in that thread."""
    assert (folder / "exit").read_text() == thread
    assert (folder / "text").read_text() == "not flushed"
    with gzip.open(folder / "packed.gz", "rt") as packed:
        assert packed.read() == "not flushed"


async def test_a_model_may_handle_signals_and_what_it_left_to_its_end_is_done(
    tmp_path: Path,
) -> None:
    """Signals as in a server of MLflow; at the end a pool of threads still has something to do."""
    leave_open = leaving_open(tmp_path, endless_thread=False)

    def begin(model: Any) -> None:
        import signal  # noqa: PLC0415 - runs in the replica
        import time  # noqa: PLC0415
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

        def work(number: int) -> None:
            while not (tmp_path / "go").exists():
                time.sleep(0.01)
            (tmp_path / f"done-{number}").touch()

        signal.signal(signal.SIGUSR1, lambda *_: (tmp_path / "handled").touch())
        leave_open(model)
        model.pool = ThreadPoolExecutor(1)
        for number in range(3):
            model.pool.submit(work, number)

    async with data_plane() as plane:
        child = await plane.join(loading(tmp_path / "m", begin))
        os.kill(child.process.pid, signal.SIGUSR1)
        await eventually((tmp_path / "handled").exists)
        child.tell(DrainNow(grace_s=30.0))
        await asyncio.to_thread(child.hear, Drained)
        (tmp_path / "go").touch()
        assert await asyncio.to_thread(child.process.wait, END_WAIT_S) == 0
    assert all((tmp_path / f"done-{number}").exists() for number in range(3))
    finished_in(tmp_path, "MainThread")


async def test_what_a_model_left_to_its_end_is_done_although_a_thread_of_it_goes_on(
    tmp_path: Path,
) -> None:
    async with data_plane() as plane:
        left = leaving_open(tmp_path, endless_thread=True)
        child = await plane.join(loading(tmp_path / "m", left))
        assert await drained(plane, child) == 0
    finished_in(tmp_path, "loop")


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


OURS = ("shared", "worker", "gateway", "registry_sync", "deploy")


async def test_a_model_may_bring_packages_that_are_called_like_ours(tmp_path: Path) -> None:
    for name in OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        (tmp_path / name / "magic.py").write_text("FACTOR = 7.0\n")
    names = OURS

    class Own(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def load_context(self, context: Any) -> None:
            import importlib  # noqa: PLC0415 - runs in the replica

            self.factors = [importlib.import_module(f"{name}.magic").FACTOR for name in names]

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input * self.factors[0]

    mlflow.pyfunc.save_model(
        str(tmp_path / "m"),
        python_model=Own(),
        signature=NUMBERS,
        pip_requirements=[],
        code_paths=[str(tmp_path / name) for name in OURS],
    )
    async with data_plane() as plane:
        child = plane.spawn(tmp_path / "m")
        message = await asyncio.to_thread(child.hear, (Ready, LoadFailed))
        assert isinstance(message, Ready), message

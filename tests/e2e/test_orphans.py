"""Processes that a model starts in sessions of their own, in a whole system."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.e2e.folder import folder_system
from tests.e2e.system import alive
from tests.support.mlflow_models import NUMBERS
from tests.support.waiting import wait_until

START_S = 60.0
END_S = 20.0

pytestmark = pytest.mark.timeout(240)


def detaching(folder: Path, notes: Path) -> None:
    """A model that starts a process as daemons do, and writes down its id."""

    class Detaching(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def load_context(self, context: Any) -> None:
            import subprocess  # noqa: PLC0415 - runs in the replica

            script = f"sleep 600 > /dev/null 2>&1 & echo $! >> {notes}"
            subprocess.run(["setsid", "env", "-i", "/bin/sh", "-c", script], check=True)

        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input

    mlflow.pyfunc.save_model(
        str(folder), python_model=Detaching(), signature=NUMBERS, pip_requirements=[]
    )


def test_what_a_model_started_ends_with_the_system_also_if_its_worker_was_killed(
    tmp_path: Path,
) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    system = folder_system(tmp_path)
    (tmp_path / "models" / "m").mkdir(parents=True)
    detaching(tmp_path / "models" / "m" / "1", notes)

    def daemons() -> list[int]:
        return [int(line) for line in notes.read_text().split()]

    try:
        system.start()
        ready = "/v2/models/m/ready"
        wait_until(lambda: system.get(ready)[0] == 200, START_S, "the model is ready")
        assert [alive(pid) for pid in daemons()] == [True]
        os.kill(system.system_file()["processes"]["worker-0"], signal.SIGKILL)
        wait_until(lambda: len(daemons()) == 2, START_S, "another worker has loaded it")
    finally:
        exit_code = system.stop()
    assert exit_code == 0, system.output
    wait_until(lambda: not any(map(alive, daemons())), END_S, "nothing is left")

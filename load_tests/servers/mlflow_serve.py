"""`mlflow models serve` as a server, and MLflow's route of ours: the same bodies go to both."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.server import Encoding, HttpRequest, Rows, ServerError
from load_tests.servers.penstock import RunningPenstock, free_port
from load_tests.servers.processes import descendants
from load_tests.servers.verification import post

WORKERS = 2
"""As many processes as a request of ours passes: a gateway and a replica."""

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.1

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Scoring:
    """A server that is asked in MLflow's words; see `Running`, of which it asks no arrays."""

    running: RunningPenstock | RunningMlflow
    path: str

    @property
    def port(self) -> int:
        """See `Running`."""
        return self.running.port

    @property
    def version(self) -> str:
        """See `Running`."""
        return self.running.version

    def pids(self) -> Mapping[str, Sequence[int]]:
        """See `Running`."""
        return self.running.pids()

    def scoring(self, body: bytes) -> HttpRequest:
        """The request that has this body."""
        return HttpRequest(self.path, body, JSON)

    def request(self, encoding: Encoding, rows: Rows) -> HttpRequest:
        """See `Running`; refused."""
        raise ServerError("it is asked in MLflow's words only")

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        """See `Running`; refused."""
        raise ServerError("it is asked in MLflow's words only")

    def stop(self) -> None:
        """See `Running`."""
        self.running.stop()


class RunningMlflow:
    """MLflow's own server on a model's folder."""

    def __init__(self, folder: Path, log: Path) -> None:
        self.port = free_port()
        command = [
            *(sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder)),
            *("--env-manager", "local", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--workers", str(WORKERS)),
        ]
        beside = (
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # uvicorn is there
        )
        variables = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PATH": beside}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | variables,
                start_new_session=True,
            )

    @property
    def version(self) -> str:
        """Of MLflow."""
        return importlib.metadata.version("mlflow")

    def pids(self) -> Mapping[str, Sequence[int]]:
        """See `Running`."""
        return {"server": descendants(self._process.pid)}

    def until_answered(self, request: HttpRequest) -> None:
        """Wait until it answers.

        Raises:
            ServerError: if it does not in time.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up and self._process.poll() is None:
            try:
                if post(self.port, request)[0] == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(POLL_S)
        raise ServerError("mlflow models serve does not answer")

    def stop(self) -> None:
        """End it and its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

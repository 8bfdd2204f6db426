"""Queues of jobs beside ours, on a Redis-protocol server that is given: Celery and RQ.

A worker of one process runs the model for each job. Clients are processes of their own, which use
the queue's library as any program would: there is no gateway between them and the server.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load_tests.peers.process import Launch, ServerProcess, log_tail
from load_tests.peers.recipes import APPS
from load_tests.peers.venvs import PeerVenv
from load_tests.server import Model, Rows, ServerError

CLIENTS_END_S = 60.0
"""What clients may take beyond their plan."""


@dataclass(frozen=True)
class JobRecipe:
    """A queue of jobs.

    Attributes:
        environment: the name of its virtual environment, and of its distribution.
        app: the module in `apps` with its `Client`.
        worker: how its worker is started.
    """

    name: str
    environment: str
    app: str
    worker: Callable[[PeerVenv], Sequence[str]]


def _celery(venv: PeerVenv) -> Sequence[str]:
    options = ["--pool", "prefork", "--concurrency", "1", "--loglevel", "WARNING"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    return [venv.program("celery"), "-A", "celery_app", "worker", *options, *quiet]


def _rq(kind: str) -> Callable[[PeerVenv], Sequence[str]]:
    return lambda venv: [str(venv.python), str(APPS / "rq_worker.py"), kind]


JOB_RECIPES = (
    JobRecipe("Celery", "celery", "celery_app", _celery),
    JobRecipe("RQ", "rq", "rq_app", _rq("fork")),
    JobRecipe("RQ, SimpleWorker", "rq", "rq_app", _rq("simple")),
)


class JobPeer:
    """One queue, installed when it is first used."""

    def __init__(self, recipe: JobRecipe) -> None:
        self._recipe = recipe
        self._venv = PeerVenv(recipe.environment)

    @property
    def name(self) -> str:
        """With its version."""
        return f"{self._recipe.name} {self._venv.version(self._recipe.environment)}"

    @contextmanager
    def working(self, model: Model, redis_url: str, work_dir: Path) -> Iterator[WorkingPeer]:
        """A worker for as long as the block lasts.

        Raises:
            ServerError: if it cannot be installed.
        """
        self._venv.install()
        environment = {
            "PEER_REDIS_URL": redis_url,
            "PEER_MODEL_PATH": str(model.path.resolve()),
            "PYTHONPATH": str(APPS),
        }
        worker = ServerProcess(work_dir)
        worker.start(Launch(self._recipe.worker(self._venv), environment))
        try:
            yield WorkingPeer(self._recipe.app, self._venv, environment, worker)
        finally:
            worker.stop()


class WorkingPeer:
    """A queue with a worker."""

    def __init__(
        self, app: str, venv: PeerVenv, environment: Mapping[str, str], worker: ServerProcess
    ) -> None:
        self._app = app
        self._venv = venv
        self._environment = environment
        self._worker = worker

    def pids(self) -> Mapping[str, Sequence[int]]:
        """The worker's processes."""
        return {"worker": self._worker.pids()}

    def alone(self, samples: Sequence[Rows], jobs: int) -> list[Any]:
        """One client, one job after another: what `submit_jobs.alone` tells of each.

        Raises:
            ServerError: if the clients fail.
        """
        plan = {"clients": 0, "jobs": jobs, "samples": _lists(samples)}
        found: list[Any] = self._run(plan, CLIENTS_END_S)["alone"]
        return found

    def crowd(
        self, samples: Sequence[Rows], clients: int, duration_s: float, drain_s: float
    ) -> dict[str, Any]:
        """Many clients for a while: what `submit_jobs.crowd` tells.

        Raises:
            ServerError: if the clients fail.
        """
        plan = {
            "clients": clients,
            "samples": _lists(samples),
            "duration_s": duration_s,
            "drain_s": drain_s,
        }
        return self._run(plan, duration_s + drain_s + CLIENTS_END_S)

    def _run(self, plan: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        command = [str(self._venv.python), str(APPS / "submit_jobs.py"), self._app]
        try:
            done = subprocess.run(
                command,
                input=json.dumps(plan).encode(),
                capture_output=True,
                env={**os.environ, **self._environment},
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"clients did not end: {log_tail(self._worker.log_path)}") from error
        if done.returncode != 0:
            told = done.stderr[-2000:].decode(errors="replace")
            raise ServerError(f"clients failed: {told}\nworker: {log_tail(self._worker.log_path)}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def _lists(samples: Sequence[Rows]) -> list[list[list[float]]]:
    return [rows.tolist() for rows in samples]

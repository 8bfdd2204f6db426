"""RQ as a queue of jobs: one function, which runs the model; `rq_worker.py` has the worker."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from onnx_session import OnnxModel
from redis import Redis
from rq import Queue

URL = os.environ["PEER_REDIS_URL"]
RESULT_TTL_S = 3600

model: OnnxModel | None = None


def load() -> None:
    """Load the model into this process, and those that it forks."""
    global model
    model = OnnxModel()


def infer(rows: list[list[float]]) -> list[Any]:
    """When it began (CLOCK_MONOTONIC), and the model's output."""
    began = time.monotonic()
    assert model is not None, "workers have it"
    return [began, model.run(np.asarray(rows, np.float32)).tolist()]


class Client:
    """Hands in jobs; each process has its own."""

    def __init__(self) -> None:
        self._queue = Queue(connection=Redis.from_url(URL))

    def submit(self, rows: list[list[float]]) -> Any:
        """A job, once the server has it on disk."""
        return self._queue.enqueue_call(infer, (rows,), result_ttl=RESULT_TTL_S)

    def result(self, job: Any, timeout_s: float) -> Any:
        """Wait for what it came to."""
        return job.latest_result(timeout=int(timeout_s)).return_value

    def unfinished(self) -> int:
        """Jobs that wait or run."""
        return int(self._queue.count) + int(self._queue.started_job_registry.count)

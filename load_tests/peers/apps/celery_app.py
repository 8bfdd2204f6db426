"""Celery as a queue of jobs: one task, which runs the model. `celery -A celery_app worker`.

`task_acks_late`: a task whose worker is killed runs again, as a durable job's does; without it
that task would be lost.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from celery import Celery
from celery.signals import worker_process_init
from onnx_session import OnnxModel
from redis import Redis

URL = os.environ["PEER_REDIS_URL"]
QUEUE = "celery"
UNACKNOWLEDGED = "unacked"

app = Celery("celery_app", broker=URL, backend=URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    result_expires=3600,
)
model: OnnxModel | None = None


@worker_process_init.connect
def load(**_: Any) -> None:
    """Load the model before the first task."""
    global model
    model = OnnxModel()


@app.task
def infer(rows: list[list[float]]) -> list[Any]:
    """When it began (CLOCK_MONOTONIC), and the model's output."""
    began = time.monotonic()
    assert model is not None, "a worker's processes have it"
    return [began, model.run(np.asarray(rows, np.float32)).tolist()]


class Client:
    """Hands in jobs; each process has its own."""

    def __init__(self) -> None:
        self._redis = Redis.from_url(URL)

    def submit(self, rows: list[list[float]]) -> Any:
        """A job, once the server has it on disk."""
        return infer.delay(rows)

    def result(self, job: Any, timeout_s: float) -> Any:
        """Wait for what it came to."""
        return job.get(timeout=timeout_s)

    def unfinished(self) -> int:
        """Jobs that wait or run."""
        return int(self._redis.llen(QUEUE)) + int(self._redis.hlen(UNACKNOWLEDGED))

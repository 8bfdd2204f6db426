"""A store that is full of jobs: calls, swaps and a new leader do without its room."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from mlflow.models import ModelSignature
from redis import Redis

from tests.e2e.folder import SWAP_TIMEOUT_S, answers_with, folder_system, put_affine
from tests.e2e.job_client import JobClient
from tests.e2e.system import LocalSystem
from tests.support import mlflow_models
from tests.support.waiting import wait_until

MEMORY = "12mb"
LONG_MS = 600_000.0
JOBS_MAX = 200
WIDTH = 25_000
"""Numbers in a row, of 8 bytes each: somewhat less than what must be a blob."""

ROWS = ModelSignature(
    inputs=mlflow_models.tensors((np.float64, (-1, WIDTH), None)),
    outputs=mlflow_models.tensors((np.float64, (-1, WIDTH), None)),
)

RECOVERY_S = 60.0


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    """Models `m`, for calls, and `napping`, whose jobs wait; the store is small."""
    system = folder_system(tmp_path, "--store-memory", MEMORY)
    models = tmp_path / "models"
    (models / "m").mkdir(parents=True)
    put_affine(models / "m" / "1", 2.0)
    mlflow_models.napping(models / "napping" / "1", ROWS)
    alone = "penstock.max_batch_size: 1\npenstock.job_concurrency: 1\n"
    (models / "napping" / "tags.yaml").write_text(alone)
    system.start()
    for model in ("m", "napping"):
        wait_until(partial(is_ready, system, model), RECOVERY_S, f"{model} is ready")
    try:
        yield system
    finally:
        system.stop()


def is_ready(system: LocalSystem, model: str) -> bool:
    return system.get(f"/v2/models/{model}/ready")[0] == 200


def submit(client: JobClient, ms: float) -> httpx.Response:
    """Submit a row of numbers; it takes so long."""
    data = np.full(WIDTH, ms)
    size = {"binary_data_size": data.nbytes}
    tensor = {"name": "input-0", "datatype": "FP64", "shape": [1, WIDTH], "parameters": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    return client.http.post(
        "/v2/models/napping/jobs",
        content=head + data.tobytes(),
        headers={"inference-header-content-length": str(len(head))},
    )


def fill(client: JobClient) -> list[str]:
    """Submit until no more is taken; the first job runs for long, the others wait for it."""
    paths: list[str] = []
    while len(paths) < JOBS_MAX:
        answer = submit(client, LONG_MS)
        if answer.status_code == 503:
            assert "out of memory" in answer.text
            return paths
        assert answer.status_code == 202, answer.text
        paths.append(answer.headers["location"])
    raise AssertionError("the store takes whatever it is given")


def kill(system: LocalSystem, name: str) -> None:
    """kill -9 of a part; another takes its place."""
    pid = system.system_file()["processes"][name]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: system.system_file()["processes"].get(name) not in (pid, None), 30, name)


def set_memory(system: LocalSystem, bound: str) -> None:
    """Change the server's `maxmemory`."""
    with Redis.from_url(system.system_file()["redis_url"]) as redis:
        redis.config_set("maxmemory", bound)


def test_a_store_that_is_full_of_jobs_holds_up_nothing_else(system: LocalSystem) -> None:
    client = JobClient(system.url)
    paths = fill(client)
    set_memory(system, "1mb")  # what is refused is freed, so it would not be full all the time
    answers_with(system, "m", 2.0, 5)
    logs = (system.data_dir / "logs" / "gateway-0.log").read_text()
    assert "no room for new jobs" in logs
    assert "--store-memory" in logs
    folder = system.data_dir.parent / "models" / "m"
    put_affine(folder / "2", 3.0)
    answers_with(system, "m", 3.0, SWAP_TIMEOUT_S)
    kill(system, "registry-sync-0")
    put_affine(folder / "3", 4.0)
    answers_with(system, "m", 4.0, RECOVERY_S)  # there is a leader again
    kill(system, "worker-0")
    kill(system, "gateway-0")
    answers_with(system, "m", 4.0, RECOVERY_S)
    for path in paths:
        state = client.cancel(path)[1]
        assert state in ("canceled", "canceling"), state
    set_memory(system, MEMORY)
    # The job that ran was ended by force, with its replica.
    wait_until(partial(is_ready, system, "napping"), RECOVERY_S, "napping is ready again")
    answer = submit(client, 1.0)
    assert answer.status_code == 202, answer.text
    assert client.finished(answer.headers["location"])["state"] == "succeeded"

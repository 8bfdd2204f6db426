"""Servers that the suites share."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.contract.job_bench import Bench, bench_at
from tests.contract.redis_server import Server
from tests.contract.registries import mlflow_server


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server: its first start takes some ten seconds."""
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture(scope="module")
def job_server() -> Iterator[Server]:
    """A server for jobs."""
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder), appendfsync="always")
        running.start()
        yield running
        running.kill()


@pytest.fixture
async def bench(job_server: Server) -> AsyncIterator[Bench]:
    """A gateway's application on an empty store."""
    with Redis.from_url(job_server.url) as redis:
        redis.flushall()
    async with bench_at(job_server.url) as made:
        yield made

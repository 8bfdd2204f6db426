"""`penstock up --redis-url` with a server that is there and still reads its data."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.valkey import until_read
from tests.contract.redis_server import Server

KEYS = 4000


@pytest.fixture
def loading() -> Iterator[Server]:
    """A server that needs some two seconds for its data."""
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder))
        server.start()
        with Redis.from_url(server.url) as client:
            client.mset({f"key-{number}": "x" * 100 for number in range(KEYS)})
            client.bgrewriteaof()
            while client.info("persistence")["aof_rewrite_in_progress"]:
                pass
        server.kill()
        slow = {"key-load-delay": "500", "loading-process-events-interval-bytes": "1024"}
        server = Server(Path(folder), **slow)
        server.begin()
        try:
            with Redis.from_url(server.url) as client:
                while True:
                    try:
                        client.ping()
                        raise AssertionError("it was through at once")
                    except BusyLoadingError:
                        break
                    except (OSError, RedisError):
                        continue
            yield server
        finally:
            server.kill()


async def test_a_store_that_reads_its_data_is_waited_for(loading: Server) -> None:
    await until_read(loading.url, timeout_s=60.0)
    with Redis.from_url(loading.url) as client:
        assert client.dbsize() == KEYS


async def test_a_store_that_reads_its_data_for_too_long_is_said(loading: Server) -> None:
    with pytest.raises(CommandError, match="still reads its data after 0 s"):
        await until_read(loading.url, timeout_s=0.0)


async def test_where_no_store_answers_that_is_said_at_once(tmp_path: Path) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(CommandError, match="no state store answers"):
            await until_read(f"unix://{tmp_path}/none.sock", timeout_s=600.0)

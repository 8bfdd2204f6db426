"""Listening to channels of a real server; outages are in `tests.contract.test_job_hints`."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from penstock.shared.store.client import connect
from penstock.shared.store.subscription import Subscription
from tests.contract.redis_server import Server

PATIENCE_S = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.kill()


@asynccontextmanager
async def running(subscription: Subscription) -> AsyncIterator[None]:
    """Run a subscription meanwhile."""
    task = asyncio.create_task(subscription.run())
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=PATIENCE_S)
        assert task.cancelled()


async def listeners(client: Redis, channel: str) -> int:
    """How many listen to a channel, as the server tells."""
    ((_, count),) = await client.pubsub_numsub(channel)
    return int(count)


async def test_channels_are_told_as_they_begin_and_at_each_hint_until_nobody_wants_them(
    server: Server,
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    subscription = Subscription(server.url, "first", told.put_nowait)
    async with connect(server.url) as client, running(subscription):
        assert await told.get() == "first"
        subscription.add("second")
        assert await told.get() == "second"
        for channel in ("second", "first"):
            await client.publish(channel, "look")
            assert await told.get() == channel
        subscription.discard("second")
        while await listeners(client, "second"):
            await asyncio.sleep(0.01)
        await client.publish("second", "look")
        await client.publish("first", "look")
        assert await told.get() == "first"
        assert await listeners(client, "first") == 1
        subscription.add("second")
        assert await told.get() == "second"


async def test_after_an_outage_all_channels_that_are_wanted_by_then_are_told() -> None:
    told: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder))
        subscription = Subscription(server.url, "first", told.add)
        subscription.add("second")
        try:
            async with running(subscription):
                for wanted in ({"first", "second"}, {"first", "third"}):
                    await asyncio.to_thread(server.start)
                    while told != wanted:
                        await asyncio.sleep(0.01)
                    server.kill()
                    told.clear()
                    subscription.discard("second")
                    subscription.add("third")
        finally:
            server.kill()


async def test_it_ends_also_if_it_is_cancelled_just_as_the_connection_fails(
    server: Server,
) -> None:
    def fail(_channel: str) -> None:
        asyncio.get_running_loop().call_soon(task.cancel)
        raise OSError("connection reset")

    task = asyncio.create_task(Subscription(server.url, "first", fail).run())
    await asyncio.wait({task}, timeout=PATIENCE_S)
    assert task.cancelled()


async def test_a_connection_that_ends_while_channels_are_added_is_made_anew(server: Server) -> None:
    told: set[str] = set()
    subscription = Subscription(server.url, "first", told.add, reconnect_s=0.0)
    async with connect(server.url) as client, running(subscription):
        for number in range(600):
            subscription.add(f"{number}")
            if number % 20 == 0:
                await client.client_kill_filter(_type="pubsub")
            await asyncio.sleep(0.0005 if number % 3 == 0 else 0)
        told.clear()
        await client.client_kill_filter(_type="pubsub")
        while "599" not in told:
            await asyncio.sleep(0.01)


async def test_whatever_fails_while_it_listens_it_begins_again(server: Server) -> None:
    told: list[str] = []

    def fail_once(channel: str) -> None:
        told.append(channel)
        if len(told) == 1:
            raise AttributeError("nobody foresaw it")

    async with running(Subscription(server.url, "first", fail_once)):
        while len(told) < 2:
            await asyncio.sleep(0.01)

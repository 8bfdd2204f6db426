"""One contract for the state store, over the one in memory and over a real server."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.deployment import Deployment, GatewayReport, SyncReport, WorkerReport
from shared.errors import LeaseLostError, StateStoreError
from shared.keys import Keys
from shared.routing import ModelRoute, RoutingTable
from shared.state_store import Lease, MemoryStateStore, RedisStateStore, StateStore
from shared.store_client import connect
from tests.contract.redis_server import Server

TTL_S = 0.3
"""Short enough to wait for, long enough for a busy machine to do a few calls in."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.kill()


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[StateStore]:
    if request.param == "memory":
        yield MemoryStateStore(SystemClock())
        return
    server: Server = request.getfixturevalue("server")
    client = connect(server.url)
    await client.flushall()
    await client.aclose()
    redis_store = RedisStateStore(server.url, Keys("test"))
    yield redis_store
    await redis_store.close()


def worker(name: str, pid: int = 1) -> WorkerReport:
    return WorkerReport(
        worker=name,
        incarnation="i",
        node="n",
        pid=pid,
        devices=("cpu",),
        cores=1,
        memory_bytes=1,
    )


def gateway(name: str) -> GatewayReport:
    return GatewayReport(gateway=name, incarnation="i", node="n", pid=1, endpoint="ipc:///x")


async def leader(store: StateStore, ttl_s: float = 30.0) -> Lease:
    lease = await store.acquire_lease("a", ttl_s)
    assert lease is not None
    return lease


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await check():
            await asyncio.sleep(0.02)


async def test_nothing_was_ever_written(store: StateStore) -> None:
    assert await store.deployment() == Deployment()
    assert await store.routing() == RoutingTable()
    assert await store.workers() == []
    assert await store.gateways() == []


async def test_documents_are_written_together(store: StateStore) -> None:
    lease = await leader(store)
    deployment = Deployment(serial=7)
    route = ModelRoute(model="digits", generation=9, reason="version 1 is loading")
    routing = RoutingTable(generation=9, models={"digits": route})
    for _ in range(2):  # a write may be repeated
        await store.apply(lease, deployment, routing)
    assert (await store.deployment(), await store.routing()) == (deployment, routing)


async def test_only_the_newest_token_may_write(store: StateStore) -> None:
    old = await leader(store)
    await store.release_lease(old)
    new = await store.acquire_lease("b", 30.0)
    assert new is not None
    assert new.token > old.token
    with pytest.raises(LeaseLostError):
        await store.apply(old, Deployment(serial=1), RoutingTable())
    assert (await store.deployment()).serial == 0
    await store.apply(new, Deployment(serial=2), RoutingTable())
    await store.release_lease(old)  # not its lease any more
    await store.apply(new, Deployment(serial=3), RoutingTable())


async def test_without_a_lease_nobody_writes(store: StateStore) -> None:
    with pytest.raises(LeaseLostError):
        await store.apply(Lease("a", 1), Deployment(serial=1), RoutingTable())


async def test_a_lease_is_one_holders_until_it_expires(store: StateStore) -> None:
    first = await leader(store, TTL_S)
    assert await store.acquire_lease("b", TTL_S) is None
    assert await store.acquire_lease("a", TTL_S) == first

    async def taken_over() -> bool:
        return await store.acquire_lease("b", 30.0) is not None

    await eventually(taken_over)
    with pytest.raises(LeaseLostError):
        await store.apply(first, Deployment(), RoutingTable())
    assert await store.acquire_lease("a", TTL_S) is None


async def test_who_lost_a_lease_gets_a_higher_token(store: StateStore) -> None:
    first = await leader(store, 0.05)
    await asyncio.sleep(0.15)
    again = await leader(store)
    assert again.token > first.token


async def test_reports_are_listed_by_name_and_replaced(store: StateStore) -> None:
    for report in (worker("b"), worker("a"), worker("b", pid=2)):
        await store.report_worker(report, 30.0, notify=False)
    await store.report_gateway(gateway("g"), 30.0, notify=False)
    daemon = SyncReport(sync="s", node="n", pid=3, metrics_port=4)
    await store.report_sync(daemon, 30.0)
    assert await store.workers() == [worker("a"), worker("b", pid=2)]
    assert await store.gateways() == [gateway("g")]
    assert await store.syncs() == [daemon]
    await store.forget_worker("a")
    await store.forget_gateway("g")
    await store.forget_sync("s")
    assert await store.workers() == [worker("b", pid=2)]
    assert await store.gateways() == []
    assert await store.syncs() == []


async def test_reports_vanish_unless_renewed(store: StateStore) -> None:
    await store.report_worker(worker("a"), TTL_S, notify=False)
    await store.report_worker(worker("b"), 30.0, notify=False)

    async def gone() -> bool:
        return await store.workers() == [worker("b")]

    await eventually(gone)


async def test_watchers_hear_of_notified_writes(store: StateStore) -> None:
    heard = asyncio.Event()
    watching = asyncio.create_task(store.watch(heard.set))
    lease = await leader(store)
    writes: list[Callable[[], Awaitable[None]]] = [
        lambda: store.report_worker(worker("a"), 30.0, notify=True),
        lambda: store.report_gateway(gateway("g"), 30.0, notify=True),
        lambda: store.forget_worker("a"),
        lambda: store.apply(lease, Deployment(), RoutingTable()),
    ]
    try:
        async with asyncio.timeout(10):
            await heard.wait()  # once, when watching has begun
            for write in writes:
                heard.clear()
                await write()
                await heard.wait()
        heard.clear()
        await store.report_worker(worker("a"), 30.0, notify=False)
        await asyncio.sleep(0.05)
        assert not heard.is_set()
    finally:
        watching.cancel()


async def test_an_outage_is_one_error_and_ends_by_itself() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder))
        await asyncio.to_thread(server.start)
        store = RedisStateStore(server.url, Keys("test"))
        heard = asyncio.Event()
        watching = asyncio.create_task(store.watch(heard.set))
        try:
            await store.apply(await leader(store), Deployment(serial=5), RoutingTable())
            server.kill()
            with pytest.raises(StateStoreError):
                await store.deployment()
            with pytest.raises(StateStoreError):
                await store.acquire_lease("a", 1.0)
            heard.clear()
            await asyncio.to_thread(server.start)
            assert (await store.deployment()).serial == 5
            async with asyncio.timeout(10):
                await heard.wait()  # the watcher is back, and tells to look again
        finally:
            watching.cancel()
            await store.close()
            server.kill()


async def test_a_server_that_is_full_of_other_things_refuses_nothing(server: Server) -> None:
    client = connect(server.url)
    await client.flushall()
    store = RedisStateStore(server.url, Keys("full"))
    daemon = SyncReport(sync="s", node="n", pid=3, metrics_port=4)
    await client.config_set("maxmemory", 1)
    try:
        lease = await leader(store)
        assert await leader(store) == lease
        await store.apply(lease, Deployment(serial=5), RoutingTable())
        await store.report_worker(worker("a"), 30.0, notify=True)
        await store.report_gateway(gateway("g"), 30.0, notify=False)
        await store.report_sync(daemon, 30.0)
        assert (await store.deployment()).serial == 5
        assert await store.workers() == [worker("a")]
        assert await store.gateways() == [gateway("g")]
        assert await store.syncs() == [daemon]
        await store.forget_worker("a")
        assert await store.workers() == []
        await store.release_lease(lease)
        assert await store.acquire_lease("b", 30.0) is not None
    finally:
        await client.config_set("maxmemory", 0)
        await client.aclose()
        await store.close()


async def test_nonsense_in_the_store_is_an_error(server: Server) -> None:
    client = connect(server.url)
    await client.set(Keys("odd").deployment, b"{]")
    await client.aclose()
    store = RedisStateStore(server.url, Keys("odd"))
    with pytest.raises(StateStoreError, match="no valid Deployment"):
        await store.deployment()
    await store.close()


async def test_names_that_are_no_text_are_passed_over(server: Server) -> None:
    client = connect(server.url)
    await client.zadd(Keys("names").index("gateway"), {b"\xff\xfe": 2e9, b"": 2e9})
    await client.aclose()
    store = RedisStateStore(server.url, Keys("names"))
    await store.report_gateway(gateway("g"), 30.0, notify=False)
    assert await store.gateways() == [gateway("g")]
    await store.close()

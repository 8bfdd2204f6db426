"""One contract for the state store, over the one in memory and over a real server."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import (
    Deployment,
    GatewayReport,
    ModelInterface,
    SyncReport,
    WorkerReport,
)
from penstock.shared.contracts.errors import LeaseLostError, StateStoreError
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.history import (
    EVENTS_MAX,
    HISTORY_TTL_S,
    EventKind,
    HistoryEvent,
    ModelPast,
)
from penstock.shared.contracts.routing import ModelRoute, RoutingTable
from penstock.shared.process.clock import SystemClock
from penstock.shared.store.client import connect
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import (
    FINDINGS_TTL_S,
    PLACES_MAX,
    TURNED_OFF_MAX,
    Lease,
    RedisStateStore,
    StateStore,
)
from tests.contract.redis_server import Server
from tests.support.memory_store import MemoryStateStore
from tests.support.waiting import eventually

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


def finding(rows: int, merges: bool = True, reason: str = "") -> Finding:
    interface = ModelInterface(inputs=(), outputs=(), max_batch_size=rows, platform="fake")
    return Finding(interface=interface, merges=merges, reason=reason)


async def test_a_finding_is_kept_by_revision_and_place(store: StateStore) -> None:
    assert await store.findings("m/1-a") == {}
    first = finding(8, reason="two\nlines, and ümlauts")
    for _ in range(2):  # a write may be repeated
        assert await store.put_finding("m/1-a", "env/cpu", first) == first
    other = finding(0, merges=False)
    await store.put_finding("m/1-a", "env/cuda:0", other)
    assert await store.findings("m/1-a") == {"env/cpu": first, "env/cuda:0": other}
    assert await store.findings("m/1-b") == {}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
async def test_the_lowest_finding_stays_in_whatever_order_they_come(
    store: StateStore, order: tuple[int, ...]
) -> None:
    """A load that races with a lowering at run time does not undo it."""
    findings = (finding(128), finding(128, merges=False, reason="not batched"), finding(0, False))
    kept = [await store.put_finding("m/1-a", "env/cpu", findings[each]) for each in order]
    lowest = [findings[max(order[: count + 1])] for count in range(len(order))]
    assert kept == lowest
    assert await store.findings("m/1-a") == {"env/cpu": findings[2]}


async def test_the_first_of_equal_findings_stays(store: StateStore) -> None:
    first = finding(8, reason="first")
    await store.put_finding("m/1-a", "env/cpu", first)
    assert await store.put_finding("m/1-a", "env/cpu", finding(8, reason="second")) == first


async def test_a_finding_that_takes_a_higher_ones_place_is_counted_and_wakes_who_watches(
    store: StateStore,
) -> None:
    hints = asyncio.Queue[None]()
    watcher = asyncio.create_task(store.watch(lambda: hints.put_nowait(None)))
    await hints.get()
    counts = [await store.findings_lowered()]
    for rows in (8, 8, 32, 4, 0, 8):
        await store.put_finding("m/1-a", "env/cpu", finding(rows))
        counts.append(await store.findings_lowered())
    assert [count - counts[0] for count in counts] == [0, 0, 0, 0, 1, 2, 2]
    async with asyncio.timeout(10):
        await hints.get()
    watcher.cancel()


async def test_places_of_a_revision_are_bounded(store: StateStore) -> None:
    for number in range(PLACES_MAX + 3):
        await store.put_finding("m/1-a", f"{number}/cpu", finding(8))
    kept = await store.findings("m/1-a")
    assert len(kept) == PLACES_MAX
    assert f"{PLACES_MAX + 2}/cpu" in kept


async def test_findings_vanish_in_the_end(server: Server) -> None:
    store, client = RedisStateStore(server.url, Keys("brief")), connect(server.url)
    await store.put_finding("m/1-a", "env/cpu", finding(8))
    key = Keys("brief").findings("m/1-a")
    assert 0 < await client.pttl(key) <= FINDINGS_TTL_S * 1000
    await client.pexpire(key, 60_000)
    await store.findings("m/1-a")  # is read, so it is of use still
    assert await client.pttl(key) > 60_000
    await client.aclose()
    await store.close()


async def test_trials_count_up_and_wake_who_watches(store: StateStore) -> None:
    assert await store.trials() == {}
    woken = asyncio.Event()
    watching = asyncio.create_task(store.watch(woken.set))
    async with asyncio.timeout(10):
        await woken.wait()  # it watches
    woken.clear()
    assert await store.ask_trial("digits") == 1
    async with asyncio.timeout(10):
        await woken.wait()
    watching.cancel()
    assert await store.ask_trial("digits") == 2
    assert await store.ask_trial("other") == 1
    assert await store.trials() == {"digits": 2, "other": 1}


async def test_a_trial_is_above_the_one_that_is_deployed(store: StateStore) -> None:
    """The store may have lost the count, which then must not be asked for in vain."""
    assert await store.ask_trial("digits", above=5) == 6
    assert await store.ask_trial("digits", above=5) == 7


async def test_trials_that_are_no_numbers_are_an_error_of_the_store(server: Server) -> None:
    store, client = RedisStateStore(server.url, Keys("odd")), connect(server.url)
    await client.hset(Keys("odd").trials, "digits", "many")
    with pytest.raises(StateStoreError, match="no valid trials"):
        await store.trials()
    await client.aclose()
    await store.close()


async def test_what_is_turned_off_is_kept_until_it_is_forgotten(store: StateStore) -> None:
    assert await store.turned_off() == frozenset()
    woken = asyncio.Event()
    watching = asyncio.create_task(store.watch(woken.set))
    async with asyncio.timeout(10):
        await woken.wait()  # it watches
    woken.clear()
    await store.turn_off("a model: with anything", ["1", "2"])
    async with asyncio.timeout(10):
        await woken.wait()
    watching.cancel()
    await store.turn_off("a model: with anything", ["2"])
    one, two = (("a model: with anything", version) for version in "12")
    assert await store.turned_off() == {one, two}
    await store.forget_turned_off([one, ("other", "1")])
    assert await store.turned_off() == {two}


async def test_only_who_leads_forgets_by_what_it_saw(store: StateStore) -> None:
    lease = await store.acquire_lease("a", 60)
    assert lease is not None
    await store.turn_off("m", ["1"])
    with pytest.raises(LeaseLostError):
        await store.forget_turned_off([("m", "1")], Lease("a", lease.token + 1))
    assert await store.turned_off() == {("m", "1")}
    await store.forget_turned_off([("m", "1")], lease)
    assert await store.turned_off() == frozenset()


async def test_too_much_that_is_turned_off_is_refused_as_a_whole(store: StateStore) -> None:
    await store.turn_off("m", [str(each) for each in range(TURNED_OFF_MAX - 1)])
    with pytest.raises(StateStoreError, match="more than"):
        await store.turn_off("other", ["1", "2"])
    assert len(await store.turned_off()) == TURNED_OFF_MAX - 1
    await store.turn_off("other", ["1"])
    await store.turn_off("other", ["1"])  # is so already
    assert len(await store.turned_off()) == TURNED_OFF_MAX


async def test_a_system_keeps_its_id_and_each_namespace_has_another(server: Server) -> None:
    stores = [RedisStateStore(server.url, Keys(name)) for name in ("one", "one", "two")]
    ids = [await store.system_id() for store in stores]
    assert ids[0] == ids[1] != ids[2]
    assert all(ids)
    for store in stores:
        await store.close()


def event(number: int, model: str = "digits") -> HistoryEvent:
    return HistoryEvent(at=number, kind=EventKind.FAILED, model=model, version=str(number))


async def test_history_and_what_is_known_are_written_together(store: StateStore) -> None:
    assert (await store.past(), await store.history("digits")) == ({}, [])
    lease = await leader(store)
    past = {"digits": ModelPast(serving="1"), "e:t {c}/\N{SNOWMAN}": ModelPast(wanted="2")}
    other = event(2, "e:t {c}/\N{SNOWMAN}")
    await store.write_history(lease, past, [event(1), other, event(3)])
    assert await store.past() == past
    assert await store.history("digits") == [event(1), event(3)]
    assert await store.history("digits", 1) == [event(3)]
    assert await store.history("e:t {c}/\N{SNOWMAN}") == [other]
    await store.write_history(lease, {"digits": None}, [])
    assert set(await store.past()) == {"e:t {c}/\N{SNOWMAN}"}
    assert await store.history("digits") == [event(1), event(3)]


async def test_only_the_leader_writes_history(store: StateStore) -> None:
    lease = await leader(store)
    await store.release_lease(lease)
    with pytest.raises(LeaseLostError):
        await store.write_history(lease, {"digits": ModelPast(serving="1")}, [event(1)])
    assert (await store.past(), await store.history("digits")) == ({}, [])


async def test_a_model_keeps_its_last_events(store: StateStore) -> None:
    lease = await leader(store)
    for begin in range(0, EVENTS_MAX + 20, 20):
        await store.write_history(lease, {}, [event(begin + each) for each in range(20)])
    kept = await store.history("digits")
    assert [each.at for each in kept] == list(range(20, EVENTS_MAX + 20))


async def test_history_expires_on_the_server(server: Server) -> None:
    store, client = RedisStateStore(server.url, Keys("test")), connect(server.url)
    await client.flushall()
    await store.write_history(await leader(store), {}, [event(1)])
    left_ms = await client.pttl(Keys("test").history("digits"))
    assert 0 <= HISTORY_TTL_S * 1000 - left_ms < 60_000
    await store.close()
    await client.aclose()

"""An agent that is told to leave: it serves until others have taken over, if there are others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.shared.contracts.deployment import ReplicaState, SyncReport, WorkerReport
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.process.clock import SystemClock
from tests.unit.worker.agent.test_agent import FlakyStore, World
from tests.unit.worker.agent_bench import PATIENCE_S, lives

pytestmark = pytest.mark.costly

NEVER_S = 600.0
"""A grace that no test waits for."""


class SilentStore(FlakyStore):
    """A store that does not tell of workers and daemons either while it is away.

    Attributes:
        failures: so many reads of workers, and of daemons, are yet to fail.
        looks: reads of daemons.
    """

    looks = 0

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.failures = {"workers": 0, "syncs": 0}

    async def workers(self) -> list[WorkerReport]:
        self._fail("workers")
        return await super().workers()

    async def syncs(self) -> list[SyncReport]:
        self.looks += 1
        self._fail("syncs")
        return await super().syncs()

    def _fail(self, what: str) -> None:
        self._check()
        if self.failures[what]:
            self.failures[what] -= 1
            raise StateStoreError("a connection was lost")


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.stop()


async def other_worker(world: World, *, draining: bool = False) -> None:
    """Another worker reports itself."""
    report = WorkerReport(
        worker="other",
        incarnation="other-1",
        node="n",
        pid=1,
        devices=("cpu",),
        cores=1,
        memory_bytes=1,
        draining=draining,
    )
    await world.store.report_worker(report, 3600, notify=True)
    sync = SyncReport(sync="sync-1", node="n", pid=1)
    await world.store.report_sync(sync, 3600)


async def leaving(world: World) -> int:
    """A worker with one ready replica is told to leave; the replica's pid."""
    await world.start(handover_grace_s=NEVER_S, drain_grace_s=NEVER_S)
    await world.place("digits")
    pid = (await world.ready("digits/0")).pid
    assert pid is not None
    assert world.agent is not None
    world.agent.stop()
    return pid


async def left(world: World) -> None:
    assert world.task is not None
    await asyncio.wait_for(world.task, PATIENCE_S)


async def test_it_serves_until_its_replicas_are_placed_elsewhere(world: World) -> None:
    await other_worker(world)
    pid = await leaving(world)
    async with asyncio.timeout(PATIENCE_S):
        while not any(
            report.draining and report.replicas[0].state is ReplicaState.READY
            for report in await world.store.workers()
            if report.worker != "other"
        ):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.3)
    assert lives(pid)
    await world.place()
    await left(world)
    assert not lives(pid)


async def test_alone_it_drains_at_once(world: World) -> None:
    pid = await leaving(world)
    await left(world)
    assert not lives(pid)


async def test_it_does_not_wait_for_others_that_leave_too(world: World) -> None:
    await other_worker(world)
    pid = await leaving(world)
    await asyncio.sleep(0.3)
    assert lives(pid)
    await other_worker(world, draining=True)
    await left(world)
    assert not lives(pid)


async def test_without_a_registry_sync_nobody_would_have_others_take_over(world: World) -> None:
    await other_worker(world)
    await world.store.forget_sync("sync-1")
    pid = await leaving(world)
    await left(world)
    assert not lives(pid)


@pytest.mark.parametrize("what", ["workers", "syncs"])
async def test_a_read_of_the_store_that_fails_does_not_end_the_handover(
    world: World, what: str
) -> None:
    store = world.store = SilentStore()
    await other_worker(world)
    pid = await leaving(world)
    store.failures[what] = 2
    async with asyncio.timeout(PATIENCE_S):
        while store.looks < 5:
            await asyncio.sleep(0.02)
    assert lives(pid)
    await world.place()
    await left(world)


async def test_without_the_store_for_long_nobody_could_take_over(world: World) -> None:
    world.store = SilentStore()
    await other_worker(world)
    await world.start(handover_grace_s=NEVER_S, report_ttl_s=0.5)
    await world.place("digits")
    pid = (await world.ready("digits/0")).pid
    assert pid is not None
    assert world.agent is not None
    world.store.away = True
    world.agent.stop()
    await left(world)
    assert not lives(pid)


class StoreWithoutHints(SilentStore):
    """A store that can be read, and whose hints fail in a way that nobody foresaw."""

    failed = 0

    async def watch(self, on_change: Callable[[], None]) -> None:
        self.failed += 1
        raise AttributeError("'NoneType' object has no attribute 'writelines'")


async def test_a_part_that_replicas_serve_without_ends_none_of_them(world: World) -> None:
    store = world.store = StoreWithoutHints()
    await world.start()
    await world.place("digits")
    pid = (await world.ready("digits/0")).pid
    async with asyncio.timeout(PATIENCE_S):
        while store.failed < 2:
            await asyncio.sleep(0.02)
    assert lives(pid or 0)


async def test_the_wait_for_others_is_bounded(world: World) -> None:
    await other_worker(world)
    await world.start(handover_grace_s=0.3)
    await world.place("digits")
    pid = (await world.ready("digits/0")).pid
    assert pid is not None
    assert world.agent is not None
    world.agent.stop()
    await left(world)
    assert not lives(pid)

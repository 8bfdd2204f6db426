"""The lease over a store that is slow, hangs or fails, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from penstock.registry_sync.daemon.leadership import Leadership
from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.shared.contracts.errors import StateStoreError
from tests.simulation.sync_world import Line
from tests.simulation.virtual_time import VirtualClock, in_virtual_time
from tests.support.memory_store import MemoryStateStore

TTL_S = 3.0


class Candidate:
    """One leadership, its line to the store, and what it was told of changes."""

    def __init__(self) -> None:
        clock = VirtualClock()
        self.store = MemoryStateStore(clock)
        self.line = Line(self.store, random.Random(0))
        self.counts = SyncCounts()
        self.changes: list[bool] = []
        self.leadership = Leadership(
            self.line,  # type: ignore[arg-type]  # the rest of the store is not asked for
            clock,
            "a",
            TTL_S,
            self._changed,
            Troubles(self.counts),
        )

    def _changed(self) -> None:
        self.changes.append(self.leadership.lease is not None)


def played(scenario: Callable[[Candidate], Awaitable[None]]) -> None:
    async def play() -> None:
        candidate = Candidate()
        running = asyncio.create_task(candidate.leadership.run())
        await asyncio.sleep(1.0)
        assert candidate.leadership.lease is not None
        await scenario(candidate)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    in_virtual_time(play)


def test_a_lease_that_lapsed_and_came_back_the_same_is_told_as_both() -> None:
    async def scenario(candidate: Candidate) -> None:
        before = candidate.leadership.lease
        # The store keeps the lease for longer than we may: it hears us, and we do not hear it.
        candidate.line.delay_s = (4.0, 4.0)
        await asyncio.sleep(10.0)
        assert candidate.leadership.lease is None
        assert candidate.changes == [True, False]
        candidate.line.delay_s = (0.0, 0.0)
        await asyncio.sleep(2.0)
        assert candidate.leadership.lease == before
        assert candidate.changes == [True, False, True]

    played(scenario)


@pytest.mark.parametrize("fail", ["raises", "hangs"])
def test_two_renewals_may_fail(fail: str) -> None:
    async def scenario(candidate: Candidate) -> None:
        for _ in range(20):
            if fail == "raises":
                candidate.line.trouble = lambda: StateStoreError("away")
            else:
                candidate.line.delay_s = (100.0, 100.0)
            await asyncio.sleep(2 * TTL_S / 4)
            candidate.line.trouble, candidate.line.delay_s = None, (0.0, 0.0)
            await asyncio.sleep(TTL_S / 4 + 0.01)
        assert candidate.changes == [True]

    played(scenario)


def test_a_store_that_answers_late_but_in_time_loses_no_lease() -> None:
    async def scenario(candidate: Candidate) -> None:
        candidate.line.delay_s = (1.0, 2.0)
        await asyncio.sleep(300.0)
        assert candidate.changes == [True]

    played(scenario)


def test_an_error_that_nobody_foresaw_is_counted_and_tried_again() -> None:
    async def scenario(candidate: Candidate) -> None:
        candidate.line.trouble = lambda: ValueError("odd")
        await asyncio.sleep(60.0)
        assert candidate.leadership.lease is None
        assert candidate.counts.faults > 10
        candidate.line.trouble = None
        await asyncio.sleep(1.0)
        assert candidate.leadership.lease is not None

    with capture_logs() as logs:
        played(scenario)
    assert [each["event"] for each in logs].count("unforeseen error") == 1


def test_a_standby_that_cannot_reach_the_store_says_so_once() -> None:
    async def scenario(candidate: Candidate) -> None:
        candidate.line.trouble = lambda: StateStoreError("away")
        await asyncio.sleep(60.0)

    with capture_logs() as logs:
        played(scenario)
    told = [each["error"] for each in logs if each["event"] == "unavailable"]
    assert told == ["away"]

"""Loops that fail, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import pairwise

from structlog.testing import capture_logs

from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.supervision import RESTART_DELAY_MAX_S, keep_running
from penstock.registry_sync.daemon.troubles import TROUBLES_MAX, Troubles
from tests.simulation.virtual_time import in_virtual_time


def runs_of(loop: Callable[[int], Awaitable[None]], seconds: float) -> tuple[list[float], int]:
    """When a loop was begun, and how many faults were counted."""
    began: list[float] = []
    counts = SyncCounts()

    async def run() -> None:
        began.append(asyncio.get_running_loop().time())
        await loop(len(began))

    async def play() -> None:
        running = asyncio.create_task(keep_running("loop", run, Troubles(counts)))
        await asyncio.sleep(seconds)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    in_virtual_time(play)
    return began, counts.faults


async def fail(_run: int) -> None:
    raise KeyError("odd")


async def end(_run: int) -> None:
    pass


async def fail_after_an_hour(_run: int) -> None:
    await asyncio.sleep(3600)
    raise KeyError("odd")


def test_a_loop_that_fails_runs_again_each_time_later() -> None:
    began, faults = runs_of(fail, 3600.0)
    waits = [round(after - before) for before, after in pairwise(began)]
    assert waits[:6] == [1, 2, 4, 8, 16, 30]
    assert set(waits[6:]) == {RESTART_DELAY_MAX_S}
    assert faults == len(began)


def test_a_loop_that_ends_runs_again_too() -> None:
    began, faults = runs_of(end, 10.0)
    assert len(began) == faults == 4


def test_a_loop_that_failed_long_after_it_began_runs_again_soon() -> None:
    began, _ = runs_of(fail_after_an_hour, 3 * 3700.0)
    assert [round(each - began[0]) for each in began] == [0, 3601, 7202, 10803]


def test_a_fault_is_logged_once_with_its_traceback_and_counted_each_time() -> None:
    with capture_logs() as logs:
        _, faults = runs_of(fail, 100.0)
    assert faults > 3
    (line,) = logs
    assert (line["event"], line["what"]) == ("unforeseen error", "loop")
    assert line["exc_info"].__traceback__ is not None


def test_troubles_are_bounded() -> None:
    troubles = Troubles(SyncCounts())
    with capture_logs() as logs:
        for number in range(2 * TROUBLES_MAX):
            troubles.tell(str(number), "away")
        assert not troubles.over("0")  # forgotten
        assert troubles.over(str(2 * TROUBLES_MAX - 1))
    assert len(logs) == 2 * TROUBLES_MAX + 1

"""Parts that fail and begin again."""

from __future__ import annotations

import asyncio

import pytest

from penstock.shared.process.restarts import FIRST_S, LONGEST_S, Restarts


class Pauses:
    """Remembers pauses instead of waiting; after so many, the test is over."""

    def __init__(self, most: int) -> None:
        self.seen: list[float] = []
        self._most = most

    async def __call__(self, pause_s: float) -> None:
        self.seen.append(pause_s)
        if len(self.seen) == self._most:
            raise asyncio.CancelledError


async def test_a_part_that_fails_begins_again_after_longer_and_longer_pauses() -> None:
    async def fail() -> None:
        raise AttributeError("nobody foresaw it")

    pauses = Pauses(9)
    restarts = Restarts(["news"], pauses)
    with pytest.raises(asyncio.CancelledError):
        await restarts.keep("news", fail)
    assert pauses.seen[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert pauses.seen[-1] == LONGEST_S
    assert restarts.counts == {"news": 9}


async def test_a_part_that_ends_begins_again() -> None:
    async def end() -> None: ...

    restarts = Restarts(["news"], Pauses(1))
    with pytest.raises(asyncio.CancelledError):
        await restarts.keep("news", end)
    assert restarts.counts == {"news": 1}


async def test_it_ends_also_if_it_is_cancelled_just_as_a_part_fails() -> None:
    async def fail() -> None:
        raise OSError("connection reset")

    async def part() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            asyncio.get_running_loop().call_soon(task.cancel)

    task = asyncio.create_task(Restarts(["news"]).keep("news", part))
    await asyncio.wait({task}, timeout=20)
    assert task.cancelled()

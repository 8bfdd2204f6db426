"""An event loop whose time jumps to the next timer as soon as nothing is left to do.

What runs on it must do no I/O and use no threads. Hours pass in seconds, each time the same way.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

MONOTONIC = 1000.0
WALL = 1_800_000_000.0
"""What the clocks show at first."""


class _Jumping(selectors.SelectSelector):
    """Waits for nothing."""

    now = MONOTONIC

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing will ever happen")
            # After a year, seconds are too coarse for what a timer may lack: go on all the same.
            self.now = max(self.now + timeout, math.nextafter(self.now, math.inf))
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop; its time is that of `VirtualClock`."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class VirtualClock:
    """Both clocks of a machine on such a loop; somebody may set the wall clock."""

    def __init__(self) -> None:
        self._offset = WALL - MONOTONIC

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return self.monotonic() + self._offset

    def set(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative."""
        self._offset += seconds


def in_virtual_time(play: Callable[[], Awaitable[Any]]) -> Any:
    """Run something on such a loop; returns what it returns."""

    async def played() -> Any:
        return await play()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(played())

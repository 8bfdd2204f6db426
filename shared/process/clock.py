"""Time as an interface, so that cores and shells run on a fake one in tests.

All times inside Penstock are seconds on a monotonic clock. Only reports to operators carry
wall-clock times, and only remaining budgets cross the wire.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since the Unix epoch; may step."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class SteadyClock:
    """Another clock, whose wall clock does not step: what was true at first goes on from there."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = clock.wall() - clock.monotonic()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wall(self) -> float:
        return self._clock.monotonic() + self._offset


class FakeClock:
    """A clock that stands still until it is advanced."""

    def __init__(self, now: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._now = now
        self._wall_offset = wall - now

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_offset

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds` (not negative)."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back: {seconds}")
        self._now += seconds

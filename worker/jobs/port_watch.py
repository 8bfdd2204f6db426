"""When a replica's job port is taken for dead, and when the next one is started. Pure.

A port that says nothing for as long as a lease lasts (it was stopped, or hangs) keeps no lease any
more, so nothing is lost by ending it. A loop that was itself held up, by its model or with its port
by somebody who stopped both, must not blame the port for that: what passes between two looks counts
for `LOOK_S` at most. A port that is about to start has said nothing yet, and may take its time.

A port that dies soon after its start would die again: each such death doubles the wait before the
next start.
"""

from __future__ import annotations

from math import inf

LOOK_S = 0.5
"""How often the loop looks."""

START_S_MAX = 60.0
"""Longest silence from its start to its first word: a busy machine takes a while."""

RESTART_S = 0.1
RESTART_S_MAX = 30.0
"""Wait before a port that died is replaced: the first one, and the longest."""

STEADY_S = 60.0
"""A port that lived so long began well: the next wait is the shortest again."""


class PortWatch:
    """See the module's docstring.

    Args:
        silent_s_max: longest silence of one that has spoken.
    """

    def __init__(self, silent_s_max: float) -> None:
        self._silent_s_max = silent_s_max
        self._silent_s = 0.0
        self._has_spoken = False
        self._looked_at = 0.0
        self._began_at = -inf
        self._wait_s = RESTART_S
        self._start_at: float | None = None

    def began(self, now: float) -> None:
        """A port was started."""
        self._began_at = self._looked_at = now
        self._silent_s = 0.0
        self._has_spoken = False
        self._start_at = None

    def heard(self) -> None:
        """The port said something."""
        self._silent_s = 0.0
        self._has_spoken = True

    def died(self, now: float) -> None:
        """The port is gone."""
        if now - self._began_at >= STEADY_S:
            self._wait_s = RESTART_S
        self._start_at = now + self._wait_s
        self._wait_s = min(2 * self._wait_s, RESTART_S_MAX)

    def must_end(self, now: float) -> bool:
        """Whether the port has been silent for too long; to be asked after what came was read."""
        if self._start_at is not None:
            return False
        self._silent_s += min(now - self._looked_at, LOOK_S)
        self._looked_at = now
        return self._silent_s > (self._silent_s_max if self._has_spoken else START_S_MAX)

    def must_start(self, now: float) -> bool:
        """Whether the next port is due."""
        return self._start_at is not None and now >= self._start_at

    def next_look(self) -> float:
        """When to ask again, in monotonic time."""
        return self._looked_at + LOOK_S if self._start_at is None else self._start_at

"""How fast a replica leases jobs while calls come. Pure.

Theory. Calls go first, and jobs fill the rest. What rest there is no replica can see, since
gateways, stores and others share its processors; but its loop feels it, when it is ready to run and
waits for a processor. So the loop's share of time that it spent waiting is what jobs are paced by:
while it is small, jobs come at `PACE_S` each; while it is not, the pace doubles with every look, up
to `PACE_S_MAX`, and halves again when there is room. A full machine does not stop jobs: then they
come at a tenth of that rate. Those that take longer than the pace do not notice it.
"""

from __future__ import annotations

PACE_S = 5e-3
"""Time for each job that is leased, where processors have room: so jobs take some percent of the
machine, and a replica still begins 200 of them in a second."""

PACE_S_MAX = 10 * PACE_S
"""The same where processors are full."""

WAITED_MAX = 0.05
"""Share of time that the loop may wait for a processor before jobs are slowed down."""

CALLS_PAST_S = 0.1
"""How long without a call until jobs are leased as fast as they go."""

LOOK_S = 0.02
"""Shortest time that tells anything: a wait for a processor lasts some milliseconds."""


class Pace:
    """See the module's docstring. Times are seconds."""

    def __init__(self) -> None:
        self._seconds = PACE_S
        self._looked_at = 0.0
        self._waited_s = 0.0
        self._calls = 0
        self._calls_until = 0.0

    def __repr__(self) -> str:
        return f"<Pace {self._seconds * 1e3:.0f} ms>"

    def calls_come(self, calls: int, now: float) -> bool:
        """Whether calls come, so that jobs keep to the pace.

        Args:
            calls: how many were accepted until now.
        """
        if calls != self._calls:
            self._calls, self._calls_until = calls, now + CALLS_PAST_S
        return now < self._calls_until

    def next(self, now: float, waited_s: float) -> float:
        """How long each job is to take.

        Args:
            now: monotonic.
            waited_s: how long the loop has waited for a processor until now, in all.
        """
        passed_s = now - self._looked_at
        if passed_s >= LOOK_S:
            waited = (waited_s - self._waited_s) / passed_s
            factor = 2.0 if waited > WAITED_MAX else 0.5
            self._seconds = min(max(self._seconds * factor, PACE_S), PACE_S_MAX)
            self._looked_at, self._waited_s = now, waited_s
        return self._seconds

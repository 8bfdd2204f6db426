"""What a loop does while what it needs is away: waits longer and longer, and says so once."""

from __future__ import annotations

from penstock.shared.contracts.errors import PenstockError
from penstock.shared.process.outage import Outage
from penstock.shared.process.telemetry import get_logger

log = get_logger("jobs")

FIRST_S = 0.5
LONGEST_S = 5.0
"""Longest pause: how late we may notice that it is over."""


class LoopOutage(Outage):
    """Failures in a row of one loop.

    Args:
        what: the loop does, for the operator.
    """

    def __init__(self, what: str) -> None:
        super().__init__(log, f"{what}: failing, will go on trying", f"{what}: works again")
        self._pause_s = 0.0

    def pause_after(self, error: PenstockError) -> float:
        """It failed; returns for how many seconds to leave it alone."""
        self._pause_s = min(2 * self._pause_s, LONGEST_S) if self.lasts else FIRST_S
        self.failed(reason=error.message)
        return self._pause_s

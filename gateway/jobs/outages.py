"""What a loop does while what it needs is away: waits longer and longer, and says so once."""

from __future__ import annotations

from penstock.shared.contracts.errors import PenstockError
from penstock.shared.process.telemetry import get_logger

log = get_logger("jobs")

FIRST_S = 0.5
LONGEST_S = 5.0
"""Longest pause: how late we may notice that it is over."""


class Outage:
    """Failures in a row of one loop.

    Args:
        what: the loop does, for the operator.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._pause_s = 0.0

    @property
    def lasts(self) -> bool:
        """Whether the last try failed."""
        return self._pause_s > 0

    def failed(self, error: PenstockError) -> float:
        """It failed; returns for how many seconds to leave it alone."""
        if not self.lasts:
            log.warning(f"{self._what}: failing, will go on trying", reason=error.message)
        self._pause_s = min(max(self._pause_s * 2, FIRST_S), LONGEST_S)
        return self._pause_s

    def worked(self) -> None:
        """It did not fail."""
        if self.lasts:
            log.info(f"{self._what}: works again")
            self._pause_s = 0.0

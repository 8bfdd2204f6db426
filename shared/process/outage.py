"""What the log says of something that a process goes on without: once that it is away, once that
it is back. Every try notices it, and a line for each would fill the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf

from structlog.typing import FilteringBoundLogger


class Outage:
    """See the module's docstring. One thread uses it.

    Args:
        log: of the part that notices.
        away: what is warned of as it begins.
        back: what is said when it is over, with how long it lasted (`after_s`); None: nothing.
        again_s: how long after a warning it is repeated while the outage lasts.
        monotonic: tells the time in seconds.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        away: str,
        back: str | None = None,
        again_s: float = inf,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._away = away
        self._back = back
        self._again_s = again_s
        self._monotonic = monotonic
        self._began_at: float | None = None
        self._told_at = -inf

    @property
    def lasts(self) -> bool:
        """Whether the last try failed."""
        return self._began_at is not None

    @property
    def for_s(self) -> float:
        """How long it has lasted; 0 if there is none."""
        return 0.0 if self._began_at is None else self._monotonic() - self._began_at

    def failed(self, away: str | None = None, /, **fields: object) -> None:
        """A try failed.

        Args:
            away: the warning, where it depends on what else is known.
            fields: of the line.
        """
        now = self._monotonic()
        if self._began_at is None:
            self._began_at = now
        elif now - self._told_at < self._again_s:
            return
        self._told_at = now
        self._log.warning(away or self._away, **fields)

    def worked(self, **fields: object) -> None:
        """A try did not fail."""
        if self._began_at is None:
            return
        if self._back is not None:
            self._log.info(self._back, **fields, after_s=round(self.for_s))
        self._began_at = None

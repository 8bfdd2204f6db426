"""What is wrong, said once and not at every try: again when it is something else, and when it ends.

An error that nobody foresaw is a mistake of ours or of a library: it is logged with its traceback
and counted, and what met it goes on. More than `penstock.shared.process.outage`: there are many
troubles at a time, another reason is news, and a report names those that last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.shared.process.telemetry import get_logger

TROUBLES_MAX = 1_000
"""Most troubles that are remembered; beyond, the oldest may be said again. Versions come and go."""

REPORTED_LENGTH_MAX = 500
"""Longest trouble in a report, which is written every second."""

_ADDRESS = re.compile("0x[0-9a-f]+")
"""Where an object lies in memory, which differs each time that a client names it in an error."""

_SECONDS = re.compile(r"\b[0-9.e+]+ s\b")
"""How long was waited for the same in vain."""


class Troubles:
    """Troubles by what they are about.

    Args:
        counts: where errors that nobody foresaw are counted.
    """

    def __init__(self, counts: SyncCounts) -> None:
        self._counts = counts
        self._gists: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._log = get_logger("controller")

    def present(self, abouts: Iterable[str]) -> tuple[str, ...]:
        """What is wrong now with any of these, for a report."""
        told = [f"{each}: {self._messages[each]}" for each in abouts if each in self._messages]
        return tuple(each[:REPORTED_LENGTH_MAX] for each in told)

    def tell(self, about: str, message: str) -> None:
        """Something does not work, for the reason that the message begins with."""
        if self._is_new(about, message):
            self._log.error("unavailable", what=about, error=message)

    def fault(self, about: str, error: BaseException) -> None:
        """Something failed in a way that nobody foresaw."""
        self._counts.faults += 1
        if self._is_new(about, f"{type(error).__name__}: {error}"):
            self._log.error("unforeseen error", what=about, exc_info=error)

    def over(self, about: str) -> bool:
        """It works; says whether it did not before."""
        again = self._gists.pop(about, None) is not None
        self._messages.pop(about, None)
        if again:
            self._log.info("available again", what=about)
        return again

    def _is_new(self, about: str, message: str) -> bool:
        gist = _SECONDS.sub("", _ADDRESS.sub("", message))
        before = self._gists.pop(about, None)
        if len(self._gists) >= TROUBLES_MAX:
            oldest = next(iter(self._gists))
            del self._gists[oldest], self._messages[oldest]
        self._gists[about], self._messages[about] = gist, message
        return before != gist

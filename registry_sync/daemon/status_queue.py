"""Statuses that are to be written, and when those that were refused are tried again (pure).

A refusal belongs to the version, whatever its next status says: else a registry that may only be
read would be asked again at every plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.registry_sync.sources.types import StatusUpdate, VersionKey

BACKOFF_MAX_S = 60.0
"""Longest wait before a status that was refused is tried again: somebody may read it."""

_DOUBLINGS_MAX = 16


@dataclass(frozen=True)
class _Refusal:
    refusals: int
    retry_at: float


class StatusQueue:
    """Updates in the order in which they are to be written.

    Args:
        backoff_s: wait after a first refusal; each further one doubles it.
    """

    def __init__(self, backoff_s: float) -> None:
        self._backoff_s = backoff_s
        self._updates: dict[VersionKey, StatusUpdate] = {}
        self._refused: dict[VersionKey, _Refusal] = {}

    def replace(self, updates: Iterable[StatusUpdate]) -> bool:
        """Take in all that is to be written now; says whether there is anything new in it."""
        following = {(each.model, each.version): each for each in updates}
        changed = any(self._updates.get(key) != each for key, each in following.items())
        self._updates = following
        self._refused = {key: it for key, it in self._refused.items() if key in following}
        return changed

    def next(self, now: float) -> StatusUpdate | None:
        """The first that is due, or None."""
        due = (each for key, each in self._updates.items() if self._due_at(key) <= now)
        return next(due, None)

    def written(self, update: StatusUpdate) -> None:
        """An update was written."""
        key = (update.model, update.version)
        self._refused.pop(key, None)
        if self._updates.get(key) == update:
            del self._updates[key]

    def refused(self, update: StatusUpdate, now: float) -> None:
        """An update could not be written."""
        key = (update.model, update.version)
        refusals = self._refused[key].refusals + 1 if key in self._refused else 1
        wait_s = min(self._backoff_s * 2 ** min(refusals - 1, _DOUBLINGS_MAX), BACKOFF_MAX_S)
        self._refused[key] = _Refusal(refusals, now + wait_s)

    def forgive(self) -> None:
        """The registry is there again: all are due."""
        self._refused = {}

    def clear(self) -> None:
        """Forget everything."""
        self._updates, self._refused = {}, {}

    def _due_at(self, key: VersionKey) -> float:
        refusal = self._refused.get(key)
        return refusal.retry_at if refusal is not None else 0.0

"""Which of the values that were seen have come to rest (pure).

A file is written in steps that nobody announces, and an atomic replacement may look like a deletion
for a moment. So a value counts only once it was seen unchanged for a while; until then, whatever
counted before goes on to count. A value that is known to be old, from its own time stamps, counts
at first sight.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass
class _Seen(Generic[Value]):
    value: Value
    since: float
    settled: Value | None = None


class Settled(Generic[Key, Value]):
    """Values by key.

    Args:
        settle_s: how long a value must stay the same.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._seen: dict[Key, _Seen[Value]] = {}

    def last(self, key: Key) -> Value | None:
        """The value that counts, or None if none has settled so far."""
        seen = self._seen.get(key)
        return seen.settled if seen is not None else None

    def see(self, key: Key, value: Value, now: float, *, age_s: float = -1.0) -> Value | None:
        """Take in a value; returns the one that counts, or None if none has settled so far.

        Args:
            now: monotonic time.
            age_s: for how long the value is known to have been the same already.
        """
        seen = self._seen.setdefault(key, _Seen(value, now))
        if seen.value != value:
            seen.value, seen.since = value, now
        if max(age_s, now - seen.since) >= self._settle_s:
            seen.settled = value
        return seen.settled

    def keep(self, keys: Collection[Key]) -> None:
        """Forget all other keys."""
        self._seen = {key: seen for key, seen in self._seen.items() if key in keys}

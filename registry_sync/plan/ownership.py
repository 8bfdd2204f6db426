"""Whether another system writes the tags that this one writes (pure).

Theory. Each system has an id of its own, which its store keeps, and writes it beside its statuses
as the owner. Another owner at first sight proves nothing: a store that was lost, or a system that
was moved, leaves tags behind, and they are taken over. But an owner's tag that was ours and is
another's now was written by somebody who is there. So each of two systems notices the other once
both have written.

A status that is contested is not written at each look, back and forth: after the second time it
rests, each time twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.registry_sync.sources.types import OWNER_TAG, Registry, StatusUpdate, VersionKey

REST_S = 30.0
"""Until a contested status is written again, from the second time on; doubled each time."""

REST_MAX_S = 600.0
"""Longest such wait: one of the two may have been given tags of its own."""

CONTEST_S = 3 * REST_MAX_S
"""A contest is over when nobody has written another owner for so long: first we rest, then they."""

_DOUBLINGS_MAX = 16


@dataclass(frozen=True)
class _Contest:
    owner: str
    times: int
    last_at: float
    rests_until: float


class Ownership:
    """Whose tags stand on the versions of the registry.

    Attributes:
        owner: what we write: our id and, for operators, where we are; empty until it is known.
    """

    def __init__(self) -> None:
        self.owner = ""
        self._ours: set[VersionKey] = set()
        self._contests: dict[VersionKey, _Contest] = {}

    def claim(self, owner: str) -> None:
        """This is our owner's tag; with another id than before, we are another system."""
        if _id(owner) != _id(self.owner):
            self._ours, self._contests = set(), {}
        self.owner = owner

    def see(self, registry: Registry, now: float) -> None:
        """Take in what a look at the registry found."""
        owners = {
            (model.name, seen.version): seen.tags.get(OWNER_TAG, "")
            for model in registry.values()
            for seen in model.versions
        }
        for key, owner in owners.items():
            if _id(owner) == _id(self.owner):
                self._ours.add(key)
            elif owner and key in self._ours:
                self._ours.discard(key)
                self._contest(key, owner, now)
        self._ours &= owners.keys()
        self._contests = {
            key: each
            for key, each in self._contests.items()
            if key in owners and now - each.last_at < CONTEST_S
        }

    def written(self, update: StatusUpdate) -> None:
        """A status was written, with our owner's tag if the update has it."""
        if update.owner:
            self._ours.add((update.model, update.version))

    def resting(self, now: float) -> frozenset[VersionKey]:
        """Versions whose statuses are not to be written now."""
        return frozenset(key for key, each in self._contests.items() if now < each.rests_until)

    @property
    def contested(self) -> int:
        """Versions whose tags another system writes too."""
        return len(self._contests)

    @property
    def others(self) -> tuple[str, ...]:
        """The owners' tags of those who do."""
        return tuple(sorted({each.owner for each in self._contests.values()}))

    def _contest(self, key: VersionKey, owner: str, now: float) -> None:
        before = self._contests.get(key)
        times = before.times + 1 if before is not None else 1
        rest_s = REST_S * 2 ** min(times - 2, _DOUBLINGS_MAX) if times > 1 else 0.0
        self._contests[key] = _Contest(owner, times, now, now + min(rest_s, REST_MAX_S))


def is_owner(tag: str, owner: str) -> bool:
    """Whether an owner's tag is that of the system of `owner`, wherever it ran then."""
    return _id(tag) == _id(owner)


def _id(owner: str) -> str:
    return owner.partition(" ")[0]

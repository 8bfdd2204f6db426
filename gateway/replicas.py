"""What a gateway knows of each replica that is connected to it: pure bookkeeping.

One record per replica life. A replica is *ready* for calls when it has introduced itself, does not
drain, and was heard lately; a model may hold the interpreter for seconds, so silence stops routing
and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from shared.deployment import ModelInterface


@dataclass(slots=True)
class Replica:
    """One life of one replica.

    Attributes:
        id: its incarnation, which is also its ZeroMQ identity.
        heard_at: monotonic time of its last message, in seconds.
        draining: it said that it takes nothing new.
        attempts: ids of attempts that it owes an answer, with their rows.
        rows: rows of these attempts.
        foreign_rows: rows of other gateways in its queue, by its last report.
        row_us: its recent execution time per row, in microseconds.
        suspect: the attempt of a suspect call that it holds, if any.
    """

    id: str
    worker: str
    model: str
    version: str
    revision: str
    interface: ModelInterface
    heard_at: float
    draining: bool = False
    attempts: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    foreign_rows: int = 0
    row_us: int = 0
    suspect: int | None = None

    @property
    def backlog_us(self) -> int:
        """Estimated time until a row sent now would be done, in microseconds."""
        return (self.rows + self.foreign_rows + 1) * max(self.row_us, 1)

    def assign(self, attempt_id: int, rows: int, *, suspect: bool) -> None:
        """It was sent an attempt."""
        self.attempts[attempt_id] = rows
        self.rows += rows
        if suspect:
            self.suspect = attempt_id

    def settle(self, attempt_id: int) -> None:
        """It no longer owes an answer to an attempt."""
        self.rows -= self.attempts.pop(attempt_id, 0)
        if self.suspect == attempt_id:
            self.suspect = None

    def reported(self, queued_rows: int, executing_rows: int, row_us: int) -> None:
        """It told its load."""
        self.foreign_rows = max(queued_rows + executing_rows - self.rows, 0)
        self.row_us = row_us


_NONE: list[Replica] = []


class Replicas:
    """All replicas that are connected.

    Args:
        silence_s: how long a replica may be silent and still be sent calls.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._by_id: dict[str, Replica] = {}
        self._by_revision: dict[str, list[Replica]] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._by_id.values())

    def __repr__(self) -> str:
        return f"<Replicas {len(self._by_id)} of {sorted(self._by_revision)}>"

    def get(self, replica_id: str) -> Replica | None:
        """The record of a replica, if it is known."""
        return self._by_id.get(replica_id)

    def add(self, replica: Replica) -> None:
        """A replica introduced itself for the first time."""
        self._by_id[replica.id] = replica
        self._by_revision.setdefault(replica.revision, []).append(replica)

    def remove(self, replica_id: str) -> Replica | None:
        """A replica is gone; its record, if it was known."""
        replica = self._by_id.pop(replica_id, None)
        if replica is not None:
            siblings = self._by_revision[replica.revision]
            siblings.remove(replica)
            if not siblings:
                del self._by_revision[replica.revision]
        return replica

    def connected(self, revision: str) -> bool:
        """Whether any replica of a revision is connected and not draining."""
        return any(not replica.draining for replica in self._by_revision.get(revision, ()))

    def ready(self, revision: str, now: float) -> list[Replica]:
        """The replicas of a revision that may be sent calls; the list is not to be changed."""
        siblings = self._by_revision.get(revision, _NONE)
        oldest = now - self._silence_s
        for replica in siblings:
            if replica.draining or replica.heard_at < oldest:
                break
        else:
            return siblings  # nearly always
        return [
            replica for replica in siblings if not replica.draining and replica.heard_at >= oldest
        ]

    def ready_counts(self, now: float) -> dict[str, int]:
        """Number of ready replicas by revision; revisions without any are left out."""
        counts = {revision: len(self.ready(revision, now)) for revision in [*self._by_revision]}
        return {revision: count for revision, count in counts.items() if count}

    def interface(self, revision: str) -> ModelInterface | None:
        """What a revision takes and gives, if any replica of it is connected."""
        siblings = self._by_revision.get(revision)
        return siblings[0].interface if siblings else None

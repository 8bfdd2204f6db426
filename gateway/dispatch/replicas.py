"""What a gateway knows of the replicas that are connected to it: pure bookkeeping.

One record per replica life, and one per revision, with what all its replicas together teach: how
long calls take, how many may be let in, who is worse than the others. A replica is *ready* when
it has introduced itself, does not drain, and was heard lately; a model may hold the interpreter for
seconds, so silence stops routing and nothing more.

Some replicas take no calls: they are there for jobs alone, which they fetch themselves. They tell
what the model takes and gives, and whether it is ready for jobs; nothing is learned of them, and
nothing is sent to them, so they are kept apart from those that take calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from penstock.gateway.dispatch.policies.admission import Admission, AdmissionSettings
from penstock.gateway.dispatch.policies.ejection import Ejection, EjectionSettings, Standing
from penstock.gateway.dispatch.policies.hedging import HedgeSettings, Latencies
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.messages import Load


@dataclass(slots=True)
class Replica:
    """One life of one replica.

    Attributes:
        id: its incarnation, which is also its ZeroMQ identity.
        heard_at: monotonic time of its last message, in seconds.
        takes_calls: False if it is there for jobs alone.
        draining: it said that it takes nothing new.
        attempts: ids of attempts that it owes an answer, with their rows.
        rows: rows of these attempts.
        foreign_rows: rows of other gateways in its queue, by its last report.
        row_us: its recent execution time per row of a full batch, in microseconds.
        suspect: the attempt of a suspect call that it holds, if any.
        alone: it executes a suspect of another gateway, and nothing else.
        executing: our attempts in the batch that it runs, if that has run for long.
        overdue: our attempts there that take longer than most, or did when they were given up,
            since it was heard last.
        overdue_now: of those, the ones in flight.
        asked_at: when it was asked how it does because a call of it was slow.
        hedged_at: other replicas that hold a hedge of one of its calls.
        standing: how it behaves beside its peers.
    """

    id: str
    worker: str
    model: str
    version: str
    revision: str
    interface: ModelInterface
    heard_at: float
    takes_calls: bool = True
    draining: bool = False
    attempts: dict[int, int] = field(default_factory=dict)
    rows: int = 0
    foreign_rows: int = 0
    row_us: int = 0
    suspect: int | None = None
    alone: bool = False
    executing: tuple[int, ...] = ()
    overdue: int = 0
    overdue_now: int = 0
    asked_at: float = 0.0
    hedged_at: set[str] = field(default_factory=set)
    standing: Standing = field(default_factory=Standing)

    @property
    def backlog_us(self) -> int:
        """Estimated time until a row sent now would be done, in microseconds."""
        return (self.rows + self.foreign_rows + 1) * max(self.row_us, 1)

    def is_ready(self, oldest: float) -> bool:
        """Whether it does not drain, and was heard since `oldest` (monotonic seconds)."""
        return not self.draining and self.heard_at >= oldest

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

    def may_hang_on(self, attempt_id: int) -> bool:
        """Whether this attempt may be what keeps it busy, by what it told last."""
        return not self.executing or attempt_id in self.executing

    def reported(self, load: Load) -> None:
        """It told its load."""
        self.foreign_rows = max(load.queued_rows + load.executing_rows - self.rows, 0)
        self.row_us = load.row_us
        self.executing = load.executing
        if not load.executing:  # else it may hang, though its calls were answered elsewhere
            self.overdue = self.overdue_now


@dataclass(frozen=True)
class RevisionSettings:
    """How what is learned of a revision is used."""

    admission: AdmissionSettings = field(default_factory=AdmissionSettings)
    hedging: HedgeSettings = field(default_factory=HedgeSettings)
    ejection: EjectionSettings = field(default_factory=EjectionSettings)


JUDGE_EVERY_S = 0.1
"""Replicas are compared with each other no more often, however many of them tell their load."""


class Revision:
    """One revision of a model.

    Attributes:
        replicas: those that take calls and are connected, ready or not.
        for_jobs: those that are connected and take no calls.
        several: whether there is more than one that takes calls.
        interface: the lowest that its replicas announce; None: none is connected.
        batches: whether its model takes several rows at once, as far as was told last.
        admission, latencies, ejection: what its replicas teach together.
    """

    __slots__ = (
        "_judged_at",
        "_silence_s",
        "_stopped_s",
        "admission",
        "batches",
        "ejection",
        "for_jobs",
        "id",
        "interface",
        "latencies",
        "replicas",
        "several",
    )

    def __init__(self, revision_id: str, silence_s: float, settings: RevisionSettings) -> None:
        self.id = revision_id
        self.replicas: list[Replica] = []
        self.for_jobs: list[Replica] = []
        self.several = False
        self.interface: ModelInterface | None = None
        self.batches = False
        self.admission = Admission(settings.admission)
        self.latencies = Latencies(settings.hedging)
        self.ejection = Ejection(settings.ejection)
        self._silence_s = silence_s
        self._stopped_s = settings.hedging.stopped_s
        self._judged_at = 0.0

    def __repr__(self) -> str:
        return f"<Revision {self.id}, {len(self.replicas)} + {len(self.for_jobs)} replicas>"

    @property
    def connected(self) -> list[Replica]:
        """All that are connected, those that take calls first."""
        return self.replicas + self.for_jobs

    def ready(self, now: float) -> list[Replica]:
        """The replicas that may be sent calls; the list is not to be changed."""
        oldest = now - self._silence_s
        for replica in self.replicas:
            if replica.draining or replica.heard_at < oldest:
                break
        else:
            return self.replicas  # nearly always
        return [replica for replica in self.replicas if replica.is_ready(oldest)]

    def ready_for_jobs(self, now: float) -> int:
        """How many are ready that take no calls."""
        oldest = now - self._silence_s
        return sum(replica.is_ready(oldest) for replica in self.for_jobs)

    def heard_since(self, now: float) -> float:
        """A replica that was not heard since this time has stopped, or is busy beyond telling."""
        return now - self._stopped_s

    def has_stopped(self, replica: Replica, now: float) -> bool:
        """Whether a replica does not even tell its load any more."""
        return replica.heard_at < self.heard_since(now)

    def stopped_alone(self, replica: Replica, now: float) -> bool:
        """Whether other replicas of the same worker can be heard."""
        return any(
            other.worker == replica.worker and not self.has_stopped(other, now)
            for other in self.replicas
            if other is not replica
        )

    def looked_at(self, now: float) -> None:
        """A replica told its load, or its readiness changed: what follows for all of them."""
        ready = self.ready(now)
        foreign_rows = sum([replica.foreign_rows for replica in ready])
        most = self.interface.max_batch_size if self.interface is not None else 0
        self.admission.replicas_told(len(ready), foreign_rows, most)
        if self.several and now - self._judged_at >= JUDGE_EVERY_S:
            self._judged_at = now
            self.ejection.judge(now)

    def joined(self, replica: Replica) -> None:
        """A replica introduced itself."""
        if not replica.takes_calls:
            self.for_jobs.append(replica)
            self.announced()
            return
        self.replicas.append(replica)
        self.announced()
        self.ejection.joined(replica.standing)
        self._counted(replica.heard_at)

    def left(self, replica: Replica) -> None:
        """A replica is gone."""
        if not replica.takes_calls:
            self.for_jobs.remove(replica)
            self.announced()
            return
        self.replicas.remove(replica)
        self.announced()
        self.ejection.left(replica.standing)
        self._counted(max([replica.heard_at, *(other.heard_at for other in self.replicas)]))

    def announced(self) -> None:
        """Which replicas there are changed, or what one of them takes."""
        self.interface = _lowest([replica.interface for replica in self.connected])
        if self.interface is not None:
            self.batches = self.interface.max_batch_size > 0

    def _counted(self, now: float) -> None:
        self.several = len(self.replicas) > 1
        self.looked_at(now)


class Replicas:
    """All replicas that are connected, and their revisions.

    Args:
        silence_s: how long a replica may be silent and still be sent calls.
    """

    def __init__(self, silence_s: float, settings: RevisionSettings | None = None) -> None:
        self._silence_s = silence_s
        self._settings = settings or RevisionSettings()
        self._by_id: dict[str, Replica] = {}
        self._revisions: dict[str, Revision] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._by_id.values())

    def __repr__(self) -> str:
        return f"<Replicas {len(self._by_id)} of {sorted(self._revisions)}>"

    def get(self, replica_id: str) -> Replica | None:
        """The record of a replica, if it is known."""
        return self._by_id.get(replica_id)

    def revision(self, revision: str) -> Revision:
        """The record of a revision, which is made if there is none yet."""
        known = self._revisions.get(revision)
        if known is None:
            known = Revision(revision, self._silence_s, self._settings)
            self._revisions[revision] = known
        return known

    def revisions(self) -> list[Revision]:
        """All revisions that are known."""
        return list(self._revisions.values())

    def add(self, replica: Replica) -> None:
        """A replica introduced itself for the first time."""
        self._by_id[replica.id] = replica
        self.revision(replica.revision).joined(replica)

    def remove(self, replica_id: str) -> Replica | None:
        """A replica is gone; its record, if it was known."""
        replica = self._by_id.pop(replica_id, None)
        if replica is not None:
            self.revision(replica.revision).left(replica)
        return replica

    def keep(self, routed: AbstractSet[str]) -> None:
        """Routes changed: forget what was learned of revisions that are neither here nor routed."""
        for revision in self.revisions():
            idle = not revision.connected and not revision.admission.open_rows
            if idle and revision.id not in routed:
                del self._revisions[revision.id]

    def connected(self, revision: str) -> bool:
        """Whether any replica of a revision is connected and not draining."""
        known = self._revisions.get(revision)
        return known is not None and any(not replica.draining for replica in known.connected)

    def ready(self, revision: str, now: float) -> list[Replica]:
        """The replicas of a revision that may be sent calls; the list is not to be changed."""
        known = self._revisions.get(revision)
        return known.ready(now) if known is not None else []

    def ready_for_jobs(self, revision: str, now: float) -> int:
        """How many replicas of a revision are ready that take no calls."""
        known = self._revisions.get(revision)
        return known.ready_for_jobs(now) if known is not None else 0

    def ready_counts(self, now: float) -> dict[str, int]:
        """Number of ready replicas by revision, whatever they take; without any, it is left out."""
        counts = {
            revision.id: len(revision.ready(now)) + revision.ready_for_jobs(now)
            for revision in self.revisions()
        }
        return {revision: count for revision, count in counts.items() if count}

    def interface(self, revision: str) -> ModelInterface | None:
        """What a revision takes and gives, if any replica of it is connected.

        A replica that found out that the model allows less is soon followed by the others of its
        revision (`penstock.shared.contracts.findings`). Until then the lowest holds, lest what a
        client may send, or how it is cut into rows, depend on which of them was asked.
        """
        known = self._revisions.get(revision)
        return known.interface if known is not None else None


def _lowest(interfaces: list[ModelInterface]) -> ModelInterface | None:
    """The one that allows the fewest rows, 0 meaning that it is not batched; None: there is none.

    Of several such it is one and the same for every gateway.
    """
    lowest: ModelInterface | None = None
    for each in interfaces:
        if lowest is None or (each != lowest and _rank(each) < _rank(lowest)):
            lowest = each
    return lowest


def _rank(interface: ModelInterface) -> tuple[int, str]:
    return (interface.max_batch_size, interface.model_dump_json())

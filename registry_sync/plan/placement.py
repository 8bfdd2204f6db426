"""Which worker holds which replica (pure).

Theory. Each revision is spread on its own: every worker gets as many of its replicas as any other,
give or take one, and ties go to the worker with the highest rendezvous hash of (revision, worker),
so that the outcome depends on no order of events and a worker that leaves moves only its own
replicas. What is placed stays where it is as long as that spread allows; memory is charged first
for all that is placed, so that a new revision never pushes an old one around.

A revision that streams, and takes both calls and jobs, has places of its own for jobs, since a job
would keep all calls waiting there. Places of each duty are spread on their own; where there is a
choice, those for jobs go where the revision has fewest others.

The places of a revision are of three kinds:
- *kept*: on a worker that is there, takes replicas and has the device;
- *leaving*: surplus, or on a worker that is draining or gone. If the revision is routed, they stay
  until enough others are ready in their stead, and seen by every gateway;
- *stuck*: where the model of a routed revision could not be loaded. They count for nothing, take no
  memory, and stay, so that their worker remembers not to try before it is asked to.

Invariants:
- Among workers with room, counts of a revision and duty differ by at most one (stuck ones aside).
- A place never changes its duty.
- Memory is never overbooked by a new place.
- A routed revision never loses a ready place before its substitutes are ready.
- Draining workers and workers without the device get nothing new.
- A draining revision keeps what it has and gets nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from penstock.registry_sync.plan.world import Reports
from penstock.shared.contracts.deployment import (
    Duty,
    Phase,
    ReplicaPlacement,
    RevisionDeployment,
    WorkerReport,
)

Count: TypeAlias = int | Literal["each"]

_GIB = 1024**3
_ORDER = {Phase.DRAINING: 0, Phase.SERVING: 1, Phase.LOADING: 2}
"""Routed revisions choose their places before those that are only to come."""


@dataclass(frozen=True)
class Unplaced:
    """Why a revision has fewer places than it asked for.

    Attributes:
        lasting: waiting alone will not help.
    """

    reason: str
    lasting: bool


@dataclass(frozen=True)
class Placing:
    """The outcome; `unplaced` is by revision id."""

    places: tuple[ReplicaPlacement, ...]
    unplaced: Mapping[str, Unplaced]


def place(
    revisions: Iterable[RevisionDeployment],
    current: Sequence[ReplicaPlacement],
    reports: Reports,
    *,
    settling: bool = False,
) -> Placing:
    """Place all revisions that are loading, serving or draining.

    Args:
        current: the placement as it is.
        settling: a worker that does not report may be there all the same.
    """
    ordered = sorted(
        (revision for revision in revisions if revision.phase in _ORDER),
        key=lambda revision: (_ORDER[revision.phase], revision.revision),
    )
    room = _Room(ordered, current, reports)
    placed: list[ReplicaPlacement] = []
    unplaced: dict[str, Unplaced] = {}
    for revision in ordered:
        own = [each for each in current if each.revision == revision.revision]
        if revision.phase is not Phase.DRAINING:
            own, reason = _spread(revision, own, room, reports, settling)
            if reason is not None:
                unplaced[revision.revision] = reason
        placed += own
    return Placing(tuple(sorted(placed, key=lambda each: each.key)), unplaced)


def asked(revision: RevisionDeployment, reports: Reports) -> int:
    """How many replicas a revision is to have, given the workers that are there."""
    counts = [
        len(_eligible(revision, reports)) if count == "each" else count
        for _, count in duties_of(revision)
    ]
    return sum(counts)


def duties_of(revision: RevisionDeployment) -> tuple[tuple[Duty, Count], ...]:
    """How many replicas of each duty a revision is to have, the most important duty first."""
    match revision.settings.jobs:
        case "off":
            return (("calls", revision.replicas),)
        case "only":
            return (("jobs", revision.replicas),)
    if revision.manifest.streams:
        return ("calls", revision.replicas), ("jobs", revision.job_replicas)
    return (("both", revision.replicas),)


def devices_for(device: str, worker: WorkerReport) -> tuple[str, ...]:
    """The devices of a worker that meet a wish for `auto`, `cpu` or `cuda:N`; may be empty."""
    if device == "auto":
        gpus = tuple(each for each in worker.devices if each.startswith("cuda"))
        return gpus or tuple(each for each in worker.devices if each == "cpu")
    return (device,) if device in worker.devices else ()


def rendezvous(revision: str, worker: str) -> int:
    """How strongly a revision is drawn to a worker."""
    digest = hashlib.blake2b(f"{revision}\0{worker}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _spread(
    revision: RevisionDeployment,
    own: Sequence[ReplicaPlacement],
    room: _Room,
    reports: Reports,
    settling: bool,
) -> tuple[list[ReplicaPlacement], Unplaced | None]:
    """The places of a revision, and why there are fewer than it asked for, if so."""
    places = list(own)
    reasons: list[Unplaced] = []
    for duty, count in duties_of(revision):
        mine = [each for each in places if each.duty == duty]
        others = [each for each in places if each.duty != duty]
        spreading = _Spreading(
            revision=revision,
            duty=duty,
            count=count,
            own=mine,
            others=others,
            room=room,
            reports=reports,
            settling=settling,
        )
        spread, reason = spreading.run()
        places = others + spread
        reasons += [reason] if reason is not None else []
    return places, reasons[0] if reasons else None


def _eligible(revision: RevisionDeployment, reports: Reports) -> list[str]:
    return sorted(
        name
        for name, worker in reports.workers.items()
        if not worker.draining and devices_for(revision.settings.device, worker)
    )


class _Room:
    """Memory and devices of the workers, as they are being given away."""

    def __init__(
        self,
        revisions: Sequence[RevisionDeployment],
        current: Sequence[ReplicaPlacement],
        reports: Reports,
    ) -> None:
        self._reports = reports
        self.free = {name: worker.memory_bytes for name, worker in reports.workers.items()}
        self._free_on = {
            (name, device): size
            for name, worker in reports.workers.items()
            for device, size in worker.device_memory_bytes.items()
        }
        self._uses: Counter[tuple[str, str]] = Counter()
        self._held: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        sizes = {each.revision: each.memory_bytes for each in revisions}
        for each in current:
            if each.revision in sizes and not reports.refused([each]):
                self._charge(each, sizes[each.revision])

    def fits(self, worker: str, revision: RevisionDeployment) -> bool:
        return self.free[worker] >= revision.memory_bytes and bool(
            self._devices_with_room(worker, revision)
        )

    def describe(self, worker: str, revision: RevisionDeployment) -> str:
        """What is left of a worker's memory and its GPUs', and who has most, in words."""
        report = self._reports.workers[worker]
        free = [("", self.free[worker], report.memory_bytes)]
        for device, size in report.device_memory_bytes.items():
            free.append((f"{device} ", self._free_on[worker, device], size))
        left = ", ".join(
            f"{what}{max(0, left) / _GIB:.1f} of {size / _GIB:.1f} GiB free"
            for what, left, size in free
        )
        return f"{worker}: {left}{self._most_held(worker, revision)}"

    def _most_held(self, worker: str, revision: RevisionDeployment) -> str:
        """Which other version holds most memory of a worker, in words; empty if none does."""
        own = (revision.model, revision.version)
        others = [(size, key) for key, size in self._held[worker].items() if key != own and size]
        if not others:
            return ""
        size, (model, version) = max(others)
        return f", {size / _GIB:.1f} GiB held by {model}/{version}"

    def _devices_with_room(self, worker: str, revision: RevisionDeployment) -> list[str]:
        """Devices that will do; a GPU of unknown memory always has room."""
        devices = devices_for(revision.settings.device, self._reports.workers[worker])
        need = revision.memory_bytes
        return [each for each in devices if self._free_on.get((worker, each), need) >= need]

    def take(
        self, worker: str, key: str, duty: Duty, revision: RevisionDeployment
    ) -> ReplicaPlacement:
        """Give a place away, on the least used device that will do."""
        devices = self._devices_with_room(worker, revision)
        given = ReplicaPlacement(
            key=key,
            model=revision.model,
            version=revision.version,
            revision=revision.revision,
            worker=worker,
            device=min(devices, key=lambda device: self._uses[worker, device]),
            duty=duty,
        )
        self._charge(given, revision.memory_bytes)
        return given

    def give_back(self, place: ReplicaPlacement, revision: RevisionDeployment) -> None:
        """Take a place back that was never used."""
        self._charge(place, -revision.memory_bytes, uses=-1)

    def _charge(self, place: ReplicaPlacement, size: int, uses: int = 1) -> None:
        if place.worker in self.free:
            self.free[place.worker] -= size
            self._held[place.worker][place.model, place.version] += size
        if (place.worker, place.device) in self._free_on:
            self._free_on[place.worker, place.device] -= size
        self._uses[place.worker, place.device] += uses


@dataclass
class _Spreading:
    """The places of one revision and duty being spread.

    Attributes:
        count: how many there are to be.
        own: its places as they are.
        others: places of the revision's other duties.
    """

    revision: RevisionDeployment
    duty: Duty
    count: Count
    own: Sequence[ReplicaPlacement]
    others: Sequence[ReplicaPlacement]
    room: _Room
    reports: Reports
    settling: bool
    kept: list[ReplicaPlacement] = field(default_factory=list)
    leaving: list[ReplicaPlacement] = field(default_factory=list)
    stuck: list[ReplicaPlacement] = field(default_factory=list)

    def run(self) -> tuple[list[ReplicaPlacement], Unplaced | None]:
        workers = _eligible(self.revision, self.reports)
        self._sort_out(frozenset(workers))
        takers = [name for name in workers if not self._refuses(name)]
        if self.count == "each":
            wanted = len(takers)
            self._one_on_each(takers)
        else:
            wanted = self.count
            self._trim(wanted)
            self._fill(wanted, takers)
            self._level(takers)
        missing = len(self.kept) < max(1, wanted)
        placed = self.kept + self.stuck + self._still_needed(missing)
        return placed, self._reason(workers, takers, wanted) if missing else None

    def _refuses(self, worker: str) -> bool:
        return self.reports.refuses(self.revision.revision, worker)

    def _sort_out(self, workers: frozenset[str]) -> None:
        serving = self.revision.phase is Phase.SERVING
        for each in self.own:
            if self.reports.refused([each]):
                if serving:
                    self.stuck.append(each)
            elif self._stays(each, workers):
                self.kept.append(each)
            else:
                self._leave(each)

    def _stays(self, each: ReplicaPlacement, workers: frozenset[str]) -> bool:
        report = self.reports.workers.get(each.worker)
        if report is None:
            return self.settling
        return each.worker in workers and each.device in report.devices

    def _leave(self, each: ReplicaPlacement) -> None:
        """Only what is routed leaves slowly."""
        if self.revision.phase is Phase.SERVING:
            self.leaving.append(each)
        else:
            self.room.give_back(each, self.revision)

    def _counts(self) -> Counter[str]:
        return Counter(each.worker for each in self.kept)

    def _score(self, worker: str) -> int:
        return rendezvous(self.revision.revision, worker)

    def _worst(self) -> ReplicaPlacement:
        """The place to do without: not ready, on the fullest worker, least drawn to it."""
        counts = self._counts()
        return max(
            self.kept,
            key=lambda each: (
                not self.reports.is_ready(each.key),
                counts[each.worker],
                -self._score(each.worker),
                each.key,
            ),
        )

    def _trim(self, wanted: int) -> None:
        while len(self.kept) > wanted:
            self._drop(self._worst())

    def _drop(self, each: ReplicaPlacement) -> None:
        self.kept.remove(each)
        self._leave(each)

    def _emptiest(self, workers: Iterable[str]) -> str | None:
        """The worker with room that has fewest of this revision; of several, one that may stay."""
        counts, others = self._counts(), Counter(each.worker for each in self.others)
        there = {each.worker for each in self.leaving}
        return min(
            (name for name in workers if self.room.fits(name, self.revision)),
            key=lambda name: (counts[name], name not in there, others[name], -self._score(name)),
            default=None,
        )

    def _fill(self, wanted: int, workers: Sequence[str]) -> None:
        while len(self.kept) < wanted:
            worker = self._emptiest(workers)
            if worker is None:
                return
            self._add(worker)

    def _level(self, workers: Sequence[str]) -> None:
        while (worker := self._emptiest(workers)) is not None:
            counts = self._counts()
            movable = [each for each in self.kept if counts[each.worker] > counts[worker] + 1]
            if not movable:
                return
            fullest = max(counts[each.worker] for each in movable)
            self._drop(
                min(
                    (each for each in movable if counts[each.worker] == fullest),
                    key=lambda each: (
                        self.reports.is_ready(each.key),
                        self._score(each.worker),
                        each.key,
                    ),
                )
            )
            self._add(worker)

    def _one_on_each(self, workers: Sequence[str]) -> None:
        counts = self._counts()
        for each in sorted(self.kept, key=lambda each: each.key, reverse=True):
            if counts[each.worker] > 1:
                counts[each.worker] -= 1
                self._drop(each)
        for worker in workers:
            if not counts[worker] and self.room.fits(worker, self.revision):
                self._add(worker)

    def _add(self, worker: str) -> None:
        """A place on `worker`: one that is about to leave there, or a new one."""
        for each in self.leaving:
            if each.worker == worker and each.device in self.reports.workers[worker].devices:
                self.leaving.remove(each)
                self.kept.append(each)
                return
        used = {each.key for each in (*self.kept, *self.leaving, *self.stuck)}
        prefix = f"{self.revision.revision}@{worker}#{'j' if self.duty == 'jobs' else ''}"
        keys = (f"{prefix}{ordinal}" for ordinal in range(len(used) + 1))
        key = next(key for key in keys if key not in used)
        self.kept.append(self.room.take(worker, key, self.duty, self.revision))

    def _still_needed(self, missing: bool) -> list[ReplicaPlacement]:
        """Places that leave, as long as their substitutes are not ready and seen."""
        if missing or not all(self.reports.is_ready(each.key) for each in self.kept):
            return self.leaving
        seen = self.reports.seen_by_gateways(self.revision.revision)
        all_places = [*self.kept, *self.leaving, *self.others]
        if seen is not None and seen < self.reports.ready(all_places):
            return self.leaving
        return []

    def _reason(self, workers: Sequence[str], takers: Sequence[str], wanted: int) -> Unplaced:
        all_workers = self.reports.workers
        if not all_workers:
            return Unplaced("no worker is there", lasting=False)
        if not any(not each.draining for each in all_workers.values()):
            return Unplaced("all workers are draining", lasting=False)
        if not workers:
            device = self.revision.settings.device
            return Unplaced(f"no live worker has the device {device}", lasting=True)
        if not takers:
            return Unplaced("its workers could not load it", lasting=False)
        room = ", ".join(self.room.describe(name, self.revision) for name in takers[:5])
        need = self.revision.memory_bytes / _GIB
        return Unplaced(
            f"too little memory: {len(self.kept)} of {wanted} replicas"
            f"{' for jobs' if self.duty == 'jobs' else ''} fit, each takes {need:.1f} GiB ({room})",
            lasting=True,
        )

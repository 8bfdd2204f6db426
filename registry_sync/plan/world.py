"""What a plan is made from, and what comes out of it: plain values (pure).

`World` is everything that was observed at one moment, `Policy` what was configured, `Plan` what is
to be written and fetched. `Reports` answers questions about what workers and gateways say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.plan.tags.settings import ServingSettings
from penstock.registry_sync.sources.types import Registry, StatusUpdate, VersionKey
from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    GatewayReport,
    ReplicaPlacement,
    ReplicaReport,
    ReplicaState,
    WorkerReport,
)
from penstock.shared.contracts.history import HistoryEvent, ModelPast
from penstock.shared.contracts.routing import RoutingTable


@dataclass(frozen=True)
class FetchFailure:
    """A fetch that failed.

    Attributes:
        failures: failures in a row, this one included.
        retry_at: time of the next try, as `World.now`.
    """

    message: str
    failures: int
    retry_at: float


Prepared: TypeAlias = Mapping[ArtifactSource, ArtifactManifest | FetchFailure]
"""What became of fetches, by source."""


@dataclass(frozen=True)
class World:
    """Everything that was observed.

    Attributes:
        observed: the registry as last seen, or None if it was not seen since we lead.
        now: wall-clock time as one daemon counts it on, in seconds: it does not step.
        settling: reports may be missing only because their writers had no time yet to renew them:
            absence means nothing.
        trials: how often the operator asked for a new trial of a model, by model.
        turned_off: versions that the operator ended by `penstock off`.
        emptied: the registry was seen since, and has no model at all.
        owner: what marks statuses as this system's; empty: nothing does.
        resting: versions whose statuses are not to be written now: another system does, too.
        past: what was written down of models.
    """

    observed: Registry | None
    deployment: Deployment
    routing: RoutingTable
    workers: Sequence[WorkerReport]
    gateways: Sequence[GatewayReport]
    now: float
    prepared: Prepared = field(default_factory=dict)
    settling: bool = False
    trials: Mapping[str, int] = field(default_factory=dict)
    turned_off: frozenset[VersionKey] = frozenset()
    emptied: bool = False
    owner: str = ""
    resting: frozenset[VersionKey] = frozenset()
    past: Mapping[str, ModelPast] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """What was configured.

    Attributes:
        stable_aliases: aliases that mean stable, the strongest first.
        tag_names: what the operator calls our tags.
        defaults: settings of a version without tags.
        flip_grace_s: how long an unrouted revision waits for gateways that do not acknowledge.
        backoff_s: wait after a first failed load; each further one doubles it.
        backoff_max_s: longest such wait.
        replica_overhead_bytes: what a replica takes before its model.
        memory_per_artifact_byte: what a replica takes for each byte of its artifacts.
    """

    stable_aliases: tuple[str, ...] = ("production", "champion")
    tag_names: TagNames = DEFAULT_NAMES
    defaults: ServingSettings = field(default_factory=ServingSettings)
    flip_grace_s: float = 10.0
    backoff_s: float = 5.0
    backoff_max_s: float = 300.0
    replica_overhead_bytes: int = 256 * 1024 * 1024
    memory_per_artifact_byte: float = 2.0

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (at least 1)."""
        doublings = min(max(failures - 1, 0), 32)  # 2^32 times anything is beyond any cap
        return float(min(self.backoff_s * 2**doublings, self.backoff_max_s))


@dataclass(frozen=True)
class Plan:
    """What to do.

    Attributes:
        deployment, routing: the documents as they are to be; equal to the present ones if nothing
            is to change.
        told: statuses of all versions that somebody asked for.
        statuses: those that differ from what the registry shows.
        fetches: sources whose artifacts are needed now.
        sources: all sources that are wished for; what was prepared of others may be forgotten.
        faults: errors that nobody foresaw, by the model that they were met in.
        spent: what was turned off and has ended, so that it may be forgotten.
        events: what happened to models, to be written down.
        past: what is known of models from now on, where that changed; None: it is to be forgotten.
    """

    deployment: Deployment
    routing: RoutingTable
    told: tuple[StatusUpdate, ...]
    statuses: tuple[StatusUpdate, ...]
    fetches: tuple[ArtifactSource, ...]
    sources: frozenset[ArtifactSource]
    faults: Mapping[str, Exception] = field(default_factory=dict)
    spent: frozenset[VersionKey] = frozenset()
    events: tuple[HistoryEvent, ...] = ()
    past: Mapping[str, ModelPast | None] = field(default_factory=dict)


class Reports:
    """What workers and gateways say of replicas, indexed."""

    def __init__(self, workers: Iterable[WorkerReport], gateways: Iterable[GatewayReport]) -> None:
        self.workers = {worker.worker: worker for worker in workers}
        self.gateways = tuple(gateways)
        self._replicas = {
            replica.key: replica for worker in self.workers.values() for replica in worker.replicas
        }
        self._refused = {
            (replica.revision, worker.worker)
            for worker in self.workers.values()
            for replica in worker.replicas
            if replica.state in (ReplicaState.FAILED, ReplicaState.INVALID)
        }

    def replica(self, key: str) -> ReplicaReport | None:
        """The replica in a place, if its worker reports one."""
        return self._replicas.get(key)

    def all_replicas(self) -> Iterable[ReplicaReport]:
        """Every replica that any worker reports, placed or not."""
        return self._replicas.values()

    def is_ready(self, key: str) -> bool:
        """Whether the replica in a place is ready."""
        replica = self._replicas.get(key)
        return replica is not None and replica.state is ReplicaState.READY

    def ready(self, places: Iterable[ReplicaPlacement]) -> int:
        """How many of these places hold a ready replica."""
        return sum(self.is_ready(place.key) for place in places)

    def refused(self, places: Iterable[ReplicaPlacement]) -> list[ReplicaReport]:
        """The replicas among these places whose model could not be loaded."""
        replicas = (self._replicas.get(place.key) for place in places)
        states = (ReplicaState.FAILED, ReplicaState.INVALID)
        return [replica for replica in replicas if replica is not None and replica.state in states]

    def refuses(self, revision: str, worker: str) -> bool:
        """Whether a worker says that it could not load a revision, at whatever place."""
        return (revision, worker) in self._refused

    def seen_by_gateways(self, revision: str) -> int | None:
        """Ready replicas that the worst informed gateway sees; None without any gateway."""
        return min((gateway.ready.get(revision, 0) for gateway in self.gateways), default=None)

"""Builders of small worlds for the tests of the pure parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from penstock.registry_sync.plan.reconcile import plan
from penstock.registry_sync.plan.world import FetchFailure, Plan, Policy, World
from penstock.registry_sync.sources.types import (
    ObservedModel,
    ObservedVersion,
    Registry,
    VersionKey,
    with_status,
)
from penstock.shared.contracts.deployment import (
    ArtifactFile,
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    GatewayReport,
    ReplicaReport,
    ReplicaState,
    WorkerReport,
)
from penstock.shared.contracts.history import HistoryEvent, ModelPast
from penstock.shared.contracts.routing import RoutingTable

WALL = 1_800_000_000.0
MIB = 1024 * 1024
POLICY = Policy()


def manifest_for(source: ArtifactSource, size: int = 1000) -> ArtifactManifest:
    """A manifest that differs for every source."""
    digest = hashlib.sha256(f"{source.uri} {source.identity}".encode()).hexdigest()
    return ArtifactManifest(files=(ArtifactFile(path="model.onnx", size=size, sha256=digest),))


def source_of(model: str, version: str, identity: str = "1") -> ArtifactSource:
    return ArtifactSource(
        uri=f"models:/{model}/{version}", tracking_uri="http://m", identity=identity
    )


def observed(
    model: str = "digits",
    versions: Mapping[str, Mapping[str, str]] | None = None,
    tags: Mapping[str, str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> ObservedModel:
    """A model with versions given by their tags."""
    return ObservedModel(
        name=model,
        tags=tags or {},
        aliases=aliases or {},
        versions=tuple(
            ObservedVersion(model, version, source_of(model, version), dict(own))
            for version, own in (versions or {}).items()
        ),
    )


STABLE = {"penstock.role": "stable"}
OFF = {"penstock.role": "off"}


def registry(*models: ObservedModel) -> Registry:
    return {model.name: model for model in models}


def worker(
    name: str = "w1",
    replicas: Iterable[ReplicaReport] = (),
    *,
    memory: int = 64 * 1024 * MIB,
    devices: tuple[str, ...] = ("cpu",),
    draining: bool = False,
) -> WorkerReport:
    return WorkerReport(
        worker=name,
        incarnation=f"{name}-1",
        node="n",
        pid=1,
        devices=devices,
        cores=4,
        memory_bytes=memory,
        draining=draining,
        replicas=tuple(replicas),
    )


def gateway(
    name: str = "g1", generation: int = 0, ready: Mapping[str, int] | None = None
) -> GatewayReport:
    return GatewayReport(
        gateway=name,
        incarnation=f"{name}-1",
        node="n",
        pid=2,
        endpoint="ipc:///x",
        generation=generation,
        ready=dict(ready or {}),
    )


def written(past: Mapping[str, ModelPast], result: Plan) -> dict[str, ModelPast]:
    """What is known of models once a plan was written down."""
    kept = {**past, **result.past}
    return {model: known for model, known in kept.items() if known is not None}


class Scene:
    """A world that obeys at once: what is placed is ready, what is published is acknowledged.

    Tests that want a fault set `states` (by revision, for replicas that are placed), `mute` (what
    gateways do not see or acknowledge), `failures` (of fetches) or `notes` (of replicas, by
    version).
    """

    def __init__(self, *workers: str, gateways: Iterable[str] = ("g1",)) -> None:
        self.now = WALL
        self.models: Registry | None = {}
        self.deployment = Deployment()
        self.routing = RoutingTable()
        self.workers: dict[str, WorkerReport] = {name: worker(name) for name in workers or ("w1",)}
        self.gateways = {name: gateway(name) for name in gateways}
        self.prepared: dict[ArtifactSource, ArtifactManifest | FetchFailure] = {}
        self.states: dict[str, ReplicaState] = {}
        self.mute = False
        self.trials: dict[str, int] = {}
        self.turned_off: frozenset[VersionKey] = frozenset()
        self.emptied = False
        self.owner = ""
        self.resting: frozenset[VersionKey] = frozenset()
        self.notes: dict[str, str] = {}
        self.settling = False
        self.policy = POLICY
        self.last: Plan | None = None
        self.past: dict[str, ModelPast] = {}
        self.events: list[HistoryEvent] = []

    def world(self) -> World:
        return World(
            observed=self.models,
            deployment=self.deployment,
            routing=self.routing,
            workers=list(self.workers.values()),
            gateways=list(self.gateways.values()),
            now=self.now,
            prepared=dict(self.prepared),
            settling=self.settling,
            trials=dict(self.trials),
            turned_off=self.turned_off,
            emptied=self.emptied,
            owner=self.owner,
            resting=self.resting,
            past=dict(self.past),
        )

    def plan(self) -> Plan:
        """One plan, applied; and a check that it is a fixed point."""
        result = plan(self.world(), self.policy)
        self.deployment, self.routing, self.last = result.deployment, result.routing, result
        self.turned_off -= result.spent
        self.past = written(self.past, result)
        self.events += result.events
        for update in result.statuses:
            if self.models is not None:
                self.models = with_status(self.models, update)
        again = plan(self.world(), self.policy)
        assert (again.deployment, again.routing) == (result.deployment, result.routing)
        assert again.statuses == ()
        assert again.spent == frozenset()
        assert (again.events, again.past) == ((), {})
        return result

    def obey(self) -> None:
        """Fetches finish; workers run what is placed; gateways see it."""
        if self.last is not None:
            for source in self.last.fetches:
                self.prepared[source] = manifest_for(source)
        self._run_replicas()
        if not self.mute:
            self.inform_gateways()

    def settle(self, rounds: int = 12) -> Plan:
        """Plan and obey until nothing changes."""
        for _ in range(rounds):
            before = self.world()
            result = self.plan()
            self.obey()
            if before == self.world():
                return result
        raise AssertionError("the scene does not settle")

    def route(self, model: str = "digits") -> str | None:
        """The version that is routed, or None."""
        route = self.routing.models.get(model)
        return route.versions[0].version if route is not None and route.versions else None

    def status(self, version: str, model: str = "digits") -> tuple[str, str]:
        """Status and message of a version, as the registry has it."""
        assert self.models is not None
        seen = self.models[model].version(version)
        assert seen is not None
        tags = seen.tags
        return tags.get("penstock.status", ""), tags.get("penstock.status_message", "")

    def told(self, version: str, model: str = "digits") -> tuple[str, str, bool]:
        """Status, message, and whether it is gone, as this system tells them of a version."""
        assert self.last is not None
        (update,) = [e for e in self.last.told if (e.model, e.version) == (model, version)]
        return update.status.value, update.message, update.gone

    def phases(self) -> dict[str, str]:
        """Phase by version."""
        return {each.version: each.phase.value for each in self.deployment.revisions.values()}

    def _run_replicas(self) -> None:
        for name, report in self.workers.items():
            replicas = tuple(
                ReplicaReport(
                    key=each.key,
                    replica=f"{each.key}-1",
                    model=each.model,
                    version=each.version,
                    revision=each.revision,
                    state=self.states.get(each.version, ReplicaState.READY),
                    device=each.device,
                    pid=9,
                    message="as told" if each.version in self.states else "",
                    note=self.notes.get(each.version, ""),
                )
                for each in self.deployment.placement
                if each.worker == name
            )
            self.workers[name] = report.model_copy(update={"replicas": replicas})

    def inform_gateways(self) -> None:
        ready: dict[str, int] = {}
        for report in self.workers.values():
            for each in report.replicas:
                if each.state is ReplicaState.READY:
                    ready[each.revision] = ready.get(each.revision, 0) + 1
        self.gateways = {
            name: gateway(name, self.routing.generation, ready) for name in self.gateways
        }

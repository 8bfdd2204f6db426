"""What the state store says of a system, as one document: the shape of `penstock status --json`.

It holds what the store holds: a replica's queue is as old as its worker's last report (a second).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from penstock.registry_sync.plan.placement import duties_of
from penstock.registry_sync.plan.statuses import status_of_phase
from penstock.registry_sync.sources.types import version_order
from penstock.shared.contracts.deployment import (
    Deployment,
    GatewayReport,
    ReplicaReport,
    RevisionDeployment,
    SyncReport,
    WorkerReport,
)
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.store.state import StateStore


class ReplicaStatus(BaseModel):
    """One replica; `state` is its worker's word for where it is in its life."""

    id: str
    key: str
    worker: str
    pid: int | None
    device: str
    duty: str
    provider: str
    state: str
    queued_rows: int
    executing_rows: int
    restarts: int
    message: str
    note: str = ""


class RevisionStatus(BaseModel):
    """One revision of a version; `role` is `stable` while calls that name no version reach it.

    Attributes:
        notes: what is to be known of a model that is served all the same, such as why it is not
            batched; each once, not for every replica.
    """

    version: str
    revision: str
    role: str
    weight: int
    phase: str
    replicas_wanted: int | str
    replicas_ready: int
    message: str
    notes: list[str] = []
    replicas: list[ReplicaStatus]


class ToldStatus(BaseModel):
    """A version's status as the registry shows it, where registry_sync has seen that.

    Attributes:
        gone: it serves, and the registry has it no more; `penstock off` ends it.
    """

    version: str
    status: str
    message: str
    gone: bool = False


class ModelStatus(BaseModel):
    """One model; `reason` says why no call reaches it, if none does.

    Attributes:
        versions: those that somebody asked for, deployed or not.
    """

    model: str
    reason: str
    versions: list[ToldStatus] = []
    revisions: list[RevisionStatus]


class WorkerStatus(BaseModel):
    """One live worker."""

    worker: str
    node: str
    pid: int
    devices: tuple[str, ...]
    replicas: int
    draining: bool


class GatewayStatus(BaseModel):
    """One live gateway; it is up to date when its generation is the system's."""

    gateway: str
    node: str
    pid: int
    url: str
    generation: int


class SyncStatus(BaseModel):
    """One live registry_sync daemon, leading or standing by.

    Attributes:
        troubles: what does not work now, such as the registry.
    """

    sync: str
    node: str
    pid: int
    troubles: tuple[str, ...] = ()


class StoreStatus(BaseModel):
    """The state store: what a crash of it makes of jobs that were accepted, a `Durability`."""

    durability: str


class SystemStatus(BaseModel):
    """All of it."""

    generation: int
    models: list[ModelStatus]
    statuses_left_out: int = 0
    workers: list[WorkerStatus]
    gateways: list[GatewayStatus]
    syncs: list[SyncStatus] = []
    store: StoreStatus | None = None


def summarize(
    deployment: Deployment,
    routing: RoutingTable,
    workers: list[WorkerReport],
    gateways: list[GatewayReport],
    syncs: Sequence[SyncReport] = (),
) -> SystemStatus:
    """Desired and actual state side by side; models and versions in order."""
    told: dict[str, list[ToldStatus]] = {}
    for each in (status for sync in syncs for status in sync.statuses):
        row = ToldStatus(
            version=each.version, status=each.status, message=each.message, gone=each.gone
        )
        told.setdefault(each.model, []).append(row)
    deployed = {revision.model for revision in deployment.revisions.values()}
    models = deployed | set(routing.models) | set(told)
    return SystemStatus(
        generation=routing.generation,
        models=[
            _model(name, deployment, routing, workers, told.get(name, []))
            for name in sorted(models)
        ],
        statuses_left_out=sum(sync.statuses_left_out for sync in syncs),
        workers=[
            WorkerStatus(
                worker=each.worker,
                node=each.node,
                pid=each.pid,
                devices=each.devices,
                replicas=len(each.replicas),
                draining=each.draining,
            )
            for each in workers
        ],
        gateways=[
            GatewayStatus(
                gateway=each.gateway,
                node=each.node,
                pid=each.pid,
                url=each.url,
                generation=each.generation,
            )
            for each in gateways
        ],
        syncs=[
            SyncStatus(sync=each.sync, node=each.node, pid=each.pid, troubles=each.troubles)
            for each in syncs
        ],
    )


def _model(
    name: str,
    deployment: Deployment,
    routing: RoutingTable,
    workers: list[WorkerReport],
    told: list[ToldStatus],
) -> ModelStatus:
    route = routing.models.get(name, ModelRoute(model=name, generation=0))
    routes = {each.revision: each for each in route.versions}
    revisions = [
        _revision(revision, deployment, routes.get(revision), workers)
        for revision, wanted in deployment.revisions.items()
        if wanted.model == name
    ]
    return ModelStatus(
        model=name,
        reason=route.reason,
        versions=sorted(told, key=lambda each: version_order(each.version)),
        revisions=sorted(revisions, key=lambda each: version_order(each.version)),
    )


def _revision(
    revision: str,
    deployment: Deployment,
    route: VersionRoute | None,
    workers: list[WorkerReport],
) -> RevisionStatus:
    wanted = deployment.revisions[revision]
    replicas = [
        _replica(worker.worker, report)
        for worker in workers
        for report in worker.replicas
        if report.revision == revision
    ]
    weight = route.weight if route else 0
    return RevisionStatus(
        version=wanted.version,
        revision=revision,
        role="stable" if weight else "",
        weight=weight,
        phase=status_of_phase(wanted).value,
        replicas_wanted=_wanted(wanted),
        replicas_ready=sum(replica.state == "ready" for replica in replicas),
        message=wanted.message,
        notes=sorted({each.note for each in replicas if each.note}),
        replicas=replicas,
    )


def _wanted(revision: RevisionDeployment) -> int | str:
    """How many replicas a revision asks for, those for jobs alone included."""
    counts = [count for _, count in duties_of(revision)]
    if "each" in counts:
        return " + ".join(str(count) for count in counts)
    return sum(count for count in counts if count != "each")


def _replica(worker: str, report: ReplicaReport) -> ReplicaStatus:
    return ReplicaStatus(
        id=report.replica,
        key=report.key,
        worker=worker,
        pid=report.pid,
        device=report.device,
        duty=report.duty,
        provider=report.provider,
        state=report.state.value,
        queued_rows=report.queued_rows,
        executing_rows=report.executing_rows,
        restarts=report.restarts,
        message=report.message,
        note=report.note,
    )


async def summary_of(store: StateStore) -> SystemStatus:
    """What a store says now.

    Raises:
        StateStoreError: if it does not answer.
    """
    return summarize(
        await store.deployment(),
        await store.routing(),
        await store.workers(),
        await store.gateways(),
        await store.syncs(),
    )

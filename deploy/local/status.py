"""`penstock status`: what the state store says of a system, as tables or as JSON.

The documents below are the shape of `--json`. They hold what the store holds: a replica's queue is
as old as its worker's last report (a second).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.table import Table

from deploy.local.failures import CommandError
from deploy.local.system_file import read_system
from deploy.local.tables import is_narrow, table_console
from registry_sync.placement import duties_of
from registry_sync.registry import version_order
from shared.deployment import (
    Deployment,
    GatewayReport,
    ReplicaReport,
    RevisionDeployment,
    SyncReport,
    WorkerReport,
)
from shared.errors import StateStoreError
from shared.keys import Keys
from shared.routing import ModelRoute, RoutingTable, VersionRoute
from shared.state_store import RedisStateStore

NAME_WIDTH_MAX = 32
"""Columns for names of models; longer ones are folded."""


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
    """A version's status as the registry shows it, where registry_sync has seen that."""

    version: str
    status: str
    message: str


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


class SystemStatus(BaseModel):
    """All of it."""

    generation: int
    models: list[ModelStatus]
    statuses_left_out: int = 0
    workers: list[WorkerStatus]
    gateways: list[GatewayStatus]


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
        row = ToldStatus(version=each.version, status=each.status, message=each.message)
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
        phase=wanted.phase.value,
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


async def read_status(redis_url: str, namespace: str) -> SystemStatus:
    """What the store says now.

    Raises:
        StateStoreError: if it does not answer.
    """
    store = RedisStateStore(redis_url, Keys(namespace))
    try:
        return summarize(
            await store.deployment(),
            await store.routing(),
            await store.workers(),
            await store.gateways(),
            await store.syncs(),
        )
    finally:
        await store.close()


def run_status(data_dir: Path, redis_url: str | None, namespace: str, as_json: bool) -> int:
    """Print the status; returns the exit code.

    Raises:
        CommandError: if no system is found.
    """
    if redis_url is None:
        system = read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    try:
        status = asyncio.run(read_status(redis_url, namespace))
    except (StateStoreError, ValueError) as error:
        raise CommandError(f"the state store does not answer: {error}") from error
    if as_json:
        print(status.model_dump_json(indent=2))
    else:
        print_tables(status, table_console())
    return 0


def print_tables(status: SystemStatus, console: Console) -> None:
    """Models, their replicas, then the other processes."""
    if status.models:
        _print_table(_models_table(status), console)
        _print_table(_replicas_table(status), console)
    else:
        console.print("No model is deployed: tag a version in MLflow with penstock.role=stable,")
        console.print("or put one into the folder that is followed: DIR/<model>/<version>/.")
    if status.statuses_left_out:
        console.print(f"and {status.statuses_left_out} more versions, which are not listed")
    _print_table(_processes_table(status), console)
    for line in _messages(status):
        console.print(line, style="yellow", soft_wrap=True)


def _messages(status: SystemStatus) -> Iterator[str]:
    for model in status.models:
        name = _one_line(model.model)
        if model.reason:
            yield f"{name}: {_one_line(model.reason)}"
        told = {each.version: each.message for each in model.versions}
        for version, message in told.items():
            if message:
                yield f"{name}/{version}: {message}"
        for revision in model.revisions:
            known = told.get(revision.version, "")
            for line in (revision.message, *revision.notes):
                if line and line not in known:
                    yield f"{name}/{revision.version}: {line}"
            for replica in revision.replicas:
                if replica.message:
                    yield f"{replica.id}: {replica.message}"


def _one_line(name: str) -> str:
    """A name, with what would move the cursor written out."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def _table(*columns: str) -> Table:
    """A table that folds what is too long for the terminal, rather than cutting it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print_table(table: Table, console: Console) -> None:
    """Names are in the first column, and leave the others room, however long they are."""
    if is_narrow(console):
        table.columns[0].max_width = NAME_WIDTH_MAX
    console.print(table)


def _models_table(status: SystemStatus) -> Table:
    table = _table("model", "version", "role", "status", "ready")
    for model in status.models:
        for row in _version_rows(model) or [("", "", "", "")]:
            table.add_row(_one_line(model.model), *row)
    return table


def _version_rows(model: ModelStatus) -> list[tuple[str, str, str, str]]:
    """Version, role, status and ready replicas, in order; a phase, where no status was told."""
    told = {each.version: each.status for each in model.versions}
    rows = [
        (
            each.version,
            each.role,
            told.get(each.version, each.phase),
            f"{each.replicas_ready} of {each.replicas_wanted}",
        )
        for each in model.revisions
    ]
    deployed = {each.version for each in model.revisions}
    rows += [(version, "", word, "") for version, word in told.items() if version not in deployed]
    return sorted(rows, key=lambda row: version_order(row[0]))


def _replicas_table(status: SystemStatus) -> Table:
    table = _table("replica of", "id", "pid", "worker", "device", "state", "queue")
    for model in status.models:
        for revision in model.revisions:
            for replica in revision.replicas:
                table.add_row(
                    f"{_one_line(model.model)}/{revision.version}",
                    replica.id,
                    str(replica.pid or ""),
                    replica.worker,
                    replica.device,
                    replica.state + ("" if replica.duty == "both" else f" ({replica.duty} only)"),
                    str(replica.queued_rows + replica.executing_rows),
                )
    return table


def _processes_table(status: SystemStatus) -> Table:
    table = _table("process", "node", "pid", "")
    for gateway in status.gateways:
        late = "" if gateway.generation == status.generation else "; routing not up to date"
        table.add_row(gateway.gateway, gateway.node, str(gateway.pid), f"{gateway.url}{late}")
    for worker in status.workers:
        note = f"{', '.join(worker.devices)}; replicas: {worker.replicas}"
        draining = "; draining" if worker.draining else ""
        table.add_row(worker.worker, worker.node, str(worker.pid), note + draining)
    return table

"""What `penstock status` prints: a system's status as tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from penstock.deploy.local.cli.tables import folded_table, is_narrow, one_line
from penstock.deploy.local.status.document import ModelStatus, SystemStatus
from penstock.registry_sync.sources.types import version_order
from penstock.shared.jobs.durability import Durability

NAME_WIDTH_MAX = 32
"""Columns for names of models; longer ones are folded."""


def print_tables(status: SystemStatus, console: Console) -> None:
    """Models, their replicas, then the other processes."""
    if status.models:
        print_table(models_table(_model_rows(status)), console)
        print_table(_replicas_table(status), console)
    else:
        console.print("No model is deployed: tag a version in MLflow with penstock.role=stable,")
        console.print("or put one into the folder that is followed: DIR/<model>/<version>/.")
    if status.statuses_left_out:
        console.print(f"and {status.statuses_left_out} more versions, which are not listed")
    print_table(_processes_table(status), console)
    if status.store is not None and not Durability(status.store.durability).is_sure:
        durability = Durability(status.store.durability)
        console.print(f"state store: {durability}: {durability.meaning}", style="yellow")
    for line in _messages(status):
        console.print(line, style="yellow", soft_wrap=True)


def _messages(status: SystemStatus) -> Iterator[str]:
    for model in status.models:
        name = one_line(model.model)
        if model.reason:
            yield f"{name}: {one_line(model.reason)}"
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
    for sync in status.syncs:
        yield from (f"{sync.sync}: {one_line(trouble)}" for trouble in sync.troubles)


def print_table(table: Table, console: Console) -> None:
    """Names are in the first column, and leave the others room, however long they are."""
    if is_narrow(console):
        table.columns[0].max_width = NAME_WIDTH_MAX
    console.print(table)


def models_table(rows: Iterable[tuple[str, str, str, str, str]]) -> Table:
    """Rows of model, version, role, status, and what is ready."""
    table = folded_table("model", "version", "role", "status", "ready")
    for model, *rest in rows:
        table.add_row(one_line(model), *rest)
    return table


def _model_rows(status: SystemStatus) -> Iterator[tuple[str, str, str, str, str]]:
    for model in status.models:
        for row in _version_rows(model) or [("", "", "", "")]:
            yield (model.model, *row)


def _version_rows(model: ModelStatus) -> list[tuple[str, str, str, str]]:
    """Version, role, status and ready replicas, in order; the phase where there is no status."""
    told = {
        each.version: f"{each.status}, gone" if each.gone else each.status
        for each in model.versions
    }
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
    table = folded_table("replica of", "id", "pid", "worker", "device", "state", "queue")
    for model in status.models:
        for revision in model.revisions:
            for replica in revision.replicas:
                table.add_row(
                    f"{one_line(model.model)}/{revision.version}",
                    replica.id,
                    str(replica.pid or ""),
                    replica.worker,
                    replica.device,
                    replica.state + ("" if replica.duty == "both" else f" ({replica.duty} only)"),
                    str(replica.queued_rows + replica.executing_rows),
                )
    return table


def _processes_table(status: SystemStatus) -> Table:
    table = folded_table("process", "node", "pid", "")
    for gateway in status.gateways:
        late = "" if gateway.generation == status.generation else "; routing not up to date"
        table.add_row(gateway.gateway, gateway.node, str(gateway.pid), f"{gateway.url}{late}")
    for worker in status.workers:
        note = f"{', '.join(worker.devices)}; replicas: {worker.replicas}"
        draining = "; draining" if worker.draining else ""
        table.add_row(worker.worker, worker.node, str(worker.pid), note + draining)
    for sync in status.syncs:
        table.add_row(sync.sync, sync.node, str(sync.pid), "registry_sync")
    return table

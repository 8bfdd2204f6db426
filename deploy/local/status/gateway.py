"""`penstock status --url`: what one gateway says of its models, where the store is out of reach.

A gateway knows what is routed, and whether a replica of it is ready: neither what is loading or
invalid beside that, nor replicas and workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import one_line, table_console
from penstock.deploy.local.jobs.gateway_client import GatewayClient, RefusedError
from penstock.deploy.local.status.goals import Goal, GoalOutcome, Judgement, VersionState, judge
from penstock.deploy.local.status.tables import models_table, print_table
from penstock.deploy.local.status.verdict import LOADING, WELL
from penstock.registry_sync.sources.types import Status

TIMEOUT_S = 10.0
"""Longest silence of a gateway, which answers both questions from memory."""

NOT_READY = 400
"""What the protocol's ready routes answer where the answer is no."""


class RoutedStatus(BaseModel):
    """One routed version, or a model of which none is, with an empty one; `reason`: why not."""

    model: str
    version: str
    status: str
    ready: bool
    reason: str


class RoutingStatus(BaseModel):
    """The shape of `penstock status --url --json`.

    Attributes:
        ready: whether the gateway takes calls.
        reason: why not, in its words; empty if it does, or if it is too old to say.
    """

    url: str
    ready: bool
    reason: str = ""
    models: list[RoutedStatus]


class _IndexEntry(BaseModel):
    name: str
    version: str = ""
    state: str
    reason: str = ""


_INDEX = TypeAdapter(list[_IndexEntry])


def ask(client: GatewayClient) -> RoutingStatus:
    """What a gateway says now.

    Raises:
        CommandError: if it does not answer, or is no gateway.
    """
    try:
        index = _INDEX.validate_json(client.call("POST", "/v2/repository/index"))
    except ValidationError as error:
        raise CommandError(f"what answers at {client.url} is no gateway of Penstock") from error
    models = [
        RoutedStatus(
            model=each.name,
            version=each.version,
            status=Status.SERVING.value if each.version else "",
            ready=each.state == "READY",
            reason=each.reason,
        )
        for each in index
    ]
    health = _health_of(client)
    return RoutingStatus(url=client.url, ready=health.ready, reason=health.reason, models=models)


class _Health(BaseModel):
    ready: bool = True
    reason: str = ""


def _health_of(client: GatewayClient) -> _Health:
    try:
        client.call("GET", "/v2/health/ready")
    except RefusedError as error:
        if error.status != NOT_READY:
            raise
        with contextlib.suppress(ValidationError):
            return _Health.model_validate_json(error.body).model_copy(update={"ready": False})
        return _Health(ready=False)
    return _Health()


def run_gateway_status(url: str, as_json: bool, judged: bool) -> int:
    """Print the status; returns the exit code: 3 if it is to be judged and anything is not ready.

    Raises:
        CommandError: if there is no gateway at the URL.
    """
    status = ask(GatewayClient(url, TIMEOUT_S))
    if as_json:
        print(status.model_dump_json(indent=2))
    else:
        _print_table(status, table_console())
    well = status.ready and all(each.ready for each in status.models)
    return LOADING if judged and not well else WELL


def states_of_routes(status: RoutingStatus, model: str) -> list[VersionState]:
    """The versions of a model that a gateway routes; one that no replica serves is loading."""
    return [
        VersionState(
            each.version, Status.SERVING if each.ready else Status.LOADING, each.reason, True
        )
        for each in status.models
        if each.model == model and each.version
    ]


def judge_gateway(status: RoutingStatus, goal: Goal, model: str, version: str | None) -> Judgement:
    """How far a model is from being served by a gateway; why not, in the gateway's words."""
    found = judge(goal, states_of_routes(status, model), version)
    if found.outcome is GoalOutcome.REACHED and not status.ready:
        found = Judgement(GoalOutcome.PENDING, "the gateway is not ready")
    reasons = [each.reason for each in status.models if each.model == model and not each.version]
    told = [found.reason, *reasons, f"the gateway says: {status.reason}" if status.reason else ""]
    if found.outcome is GoalOutcome.PENDING:
        return Judgement(found.outcome, "; ".join(each for each in told if each))
    return found


def _print_table(status: RoutingStatus, console: Console) -> None:
    if status.models:
        print_table(models_table(_rows(status)), console)
    else:
        console.print("No model is routed.")
    fate = "ready" if status.ready else "not ready"
    if status.reason:
        fate = f"{fate}: {one_line(status.reason)}"
    console.print(f"gateway at {status.url}: {fate}", soft_wrap=True)
    for each in status.models:
        if each.reason:
            name = one_line(f"{each.model}/{each.version}" if each.version else each.model)
            console.print(f"{name}: {one_line(each.reason)}", style="yellow", soft_wrap=True)


def _rows(status: RoutingStatus) -> Iterator[tuple[str, str, str, str, str]]:
    for each in status.models:
        yield each.model, each.version, "", each.status, "yes" if each.ready else "no"

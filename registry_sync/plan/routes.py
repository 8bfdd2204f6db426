"""The routing table that follows from a deployment (pure).

A model is in the table from the moment it is wished for, at first with no version and a reason
(503), until nothing of it is wished for or deployed any more (404). A route keeps its generation
until something in it changes; see `penstock.shared.contracts.routing` for what generations are for.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.registry_sync.plan.wishes import Wish
from penstock.registry_sync.plan.world import Reports, World
from penstock.shared.contracts.deployment import Deployment, Phase, ReplicaState, RevisionDeployment
from penstock.shared.contracts.ids import is_model_name
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute

REASON_LENGTH_MAX = 300
"""Longest reason why a version cannot be served: it is in every answer for the model."""


def next_generation(world: World) -> int:
    """The generation of what changes now: above every one that anybody has seen."""
    seen = max([world.routing.generation, *(gateway.generation for gateway in world.gateways)])
    return max(seen + 1, int(world.now * 1000)) if world.routing.generation == 0 else seen + 1


def route_models(
    world: World,
    wishes: Mapping[str, Wish],
    deployment: Deployment,
    generation: int,
    reports: Reports,
) -> RoutingTable:
    """The table for `deployment`; the present one if nothing in it changes."""
    deployed: dict[str, list[RevisionDeployment]] = {}
    for revision in deployment.revisions.values():
        deployed.setdefault(revision.model, []).append(revision)
    models: dict[str, ModelRoute] = {}
    for name in sorted({*wishes, *deployed}):
        route = _route(name, wishes.get(name, Wish()), deployed.get(name, []), generation)
        present = world.routing.models.get(name)
        if route is None or (present is None and _serves_unknown(route, reports)):
            continue
        same = present is not None and present == route.model_copy(
            update={"generation": present.generation}
        )
        models[name] = present if present is not None and same else route
    if models == world.routing.models:
        return world.routing
    return RoutingTable(generation=generation, models=models)


def _serves_unknown(route: ModelRoute, reports: Reports) -> bool:
    """Whether replicas of a model that we know nothing about are ready.

    So it is after a loss of all state. Their gateways route to them still, and an empty route
    would end that; soon the revision is known again, and found ready.
    """
    return not route.versions and any(
        replica.model == route.model and replica.state is ReplicaState.READY
        for replica in reports.all_replicas()
    )


def _route(
    name: str, wish: Wish, revisions: list[RevisionDeployment], generation: int
) -> ModelRoute | None:
    if not is_model_name(name):
        return None
    serving = next((each for each in revisions if each.phase is Phase.SERVING), None)
    if serving is not None:
        version = VersionRoute(
            version=serving.version,
            revision=serving.revision,
            timeout_ms=serving.timeout_ms,
            queue_timeout_ms=serving.queue_timeout_ms,
            hedge=serving.hedge,
            hedge_budget=serving.hedge_budget,
            jobs=serving.settings.jobs or "shared",
        )
        return ModelRoute(model=name, generation=generation, versions=(version,))
    invalid = next((each for each in revisions if _is_invalid(each)), None)
    if invalid is not None and wish.version in (None, invalid.version):
        reason = f"version {invalid.version} cannot be served: {_bounded(invalid.message)}"
        return ModelRoute(model=name, generation=generation, reason=reason, hopeless=True)
    reason = _reason(wish, revisions)
    return ModelRoute(model=name, generation=generation, reason=reason) if reason else None


def _is_invalid(revision: RevisionDeployment) -> bool:
    """Whether it can never be served, whatever is tried; its message is in our own words."""
    return revision.phase is Phase.FAILED and revision.retry_at is None


def _bounded(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= REASON_LENGTH_MAX else text[: REASON_LENGTH_MAX - 3] + "..."


def _reason(wish: Wish, revisions: list[RevisionDeployment]) -> str:
    """Why nothing can be reached, without any inner text of a runtime; empty: all is over."""
    target = next((each for each in revisions if each.phase in (Phase.LOADING, Phase.FAILED)), None)
    draining = next((each for each in revisions if each.phase is Phase.DRAINING), None)
    if target is None and wish.version is None:
        return (wish.because or f"version {draining.version} was turned off") if draining else ""
    version = target.version if target is not None else wish.version
    if target is not None and target.phase is Phase.FAILED:
        fate = "cannot be served" if _is_invalid(target) else "could not be loaded"
        return f"version {version} {fate}"
    if target is None and wish.failure is not None:
        return f"version {version} could not be fetched"
    if draining is not None and draining.version != version:
        return f"version {draining.version} is being replaced by version {version}"
    return f"version {version} is loading"

"""From what is observed to what is to be done (pure).

Theory. One function, `plan`, from everything that is known to the documents as they should be. It
remembers nothing: all state is in the documents themselves and in the reports of workers and
gateways, so it can be called at any time, by any daemon, as often as one likes. Of each model, one
revision is wished for, its *target* (see `wishes`), and revisions go through phases:

        (target) --> LOADING --ready, seen by all gateways--> SERVING
                      |  ^  ^                                    |
           cannot load|  |  |                                    |another flipped,
                      |  |  +------target again-----------+      |or turned off
                      v  |retry_at                        |      v
                     FAILED                 (gone) <-- DRAINING <+
                                                  |
                              acknowledged by all gateways, or grace

A LOADING or FAILED revision that is no longer the target is dropped: nobody was routed to it. If it
was the target again while it drained, it goes on to drain: a gateway may be routed to it still.
`replace` differs from surge in one point: the SERVING revision drains before the target has places.

Invariants:
- At most one revision of a model is SERVING, and the routing table routes exactly that one.
- A routed model stays routed until it is turned off, or swapped by `replace`; what the registry
  has no more serves on.
- A revision is removed only after no live gateway routes to it, or after the grace.
- A flip never lowers the number of ready replicas below what was asked of both revisions.
- Failures of a target change nothing for what serves.
- Generations only grow, and are above any that a gateway reports.
- A plan of its own result, with the same observations, is that result.

Each step looks at the documents that the step before it made, until nothing changes; that is what
makes a plan its own fixed point. Phases only move along the arrows above, and each arrow needs an
observation that the move itself cannot bring about, so few steps suffice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from penstock.registry_sync.plan.gone import gone_versions, off_of, spent
from penstock.registry_sync.plan.history import written_of
from penstock.registry_sync.plan.past import past_of
from penstock.registry_sync.plan.placement import Placing, asked, place
from penstock.registry_sync.plan.routes import next_generation, route_models
from penstock.registry_sync.plan.statuses import all_statuses, not_shown
from penstock.registry_sync.plan.tags.settings import ServingSettings
from penstock.registry_sync.plan.tags.table import SETTINGS
from penstock.registry_sync.plan.wishes import Wish, wish_of, wish_without_registry
from penstock.registry_sync.plan.world import FetchFailure, Plan, Policy, Reports, World
from penstock.registry_sync.sources.types import Registry
from penstock.shared.contracts.deployment import (
    ArtifactSource,
    Deployment,
    InPlaceSettings,
    Phase,
    ReplicaPlacement,
    ReplicaState,
    RevisionDeployment,
)

STEPS_MAX = 12
"""More steps than any chain of phases has; reaching it is a mistake in here."""

IN_PLACE = ("source", *InPlaceSettings.model_fields)
"""What of a revision follows its tags while it runs."""

PLACED_BY = tuple(tag.field for tag in SETTINGS if tag.places)
"""What of that changes its places: one that could not be loaded is tried again at once."""


def plan(world: World, policy: Policy) -> Plan:
    """What is to be done; see the module's text.

    Raises:
        AssertionError: if no fixed point was found, which no input may bring about.
    """
    reports = Reports(world.workers, world.gateways)
    current = world
    for _ in range(STEPS_MAX):
        wishes = _wishes(current, policy)
        following, placing = _step(current, wishes, reports, policy)
        if following == current:
            return _plan(
                world=world,
                result=following,
                wishes=wishes,
                placing=placing,
                reports=reports,
                policy=policy,
            )
        current = following
    raise AssertionError(f"no fixed point after {STEPS_MAX} steps")


def _plan(
    world: World,
    result: World,
    wishes: Mapping[str, Wish],
    placing: Placing,
    reports: Reports,
    policy: Policy,
) -> Plan:
    deployment = result.deployment
    if deployment != world.deployment:
        serials = [worker.deployment_serial for worker in world.workers]
        serial = max([deployment.serial, *serials]) + 1
        deployment = deployment.model_copy(update={"serial": serial})
    gone = gone_versions(result, policy)
    past = past_of(world, deployment, wishes, placing)
    told = all_statuses(
        observed=world.observed,
        deployment=deployment,
        wishes=wishes,
        placing=placing,
        reports=reports,
        gone=gone,
        past=past,
    )
    written = written_of(
        world=world,
        deployment=deployment,
        wishes=wishes,
        told=told,
        past=past,
        names=policy.tag_names,
    )
    return Plan(
        deployment=deployment,
        routing=result.routing,
        told=told,
        statuses=not_shown(told, world),
        fetches=tuple(_fetches(wishes, world.now)),
        sources=frozenset(wish.source for wish in wishes.values() if wish.source is not None),
        faults={name: wish.fault for name, wish in wishes.items() if wish.fault is not None},
        spent=world.turned_off - result.turned_off,
        events=written.events,
        past=written.past,
    )


def _fetches(wishes: Mapping[str, Wish], now: float) -> list[ArtifactSource]:
    return [
        wish.source
        for wish in wishes.values()
        if wish.source is not None
        and wish.target is None
        and (wish.failure is None or wish.failure.retry_at <= now)
    ]


def fetch_failed(message: str, earlier: object, now: float, policy: Policy) -> FetchFailure:
    """A failed fetch, with the time of the next try.

    Args:
        earlier: what was known of this source before.
    """
    failures = earlier.failures + 1 if isinstance(earlier, FetchFailure) else 1
    return FetchFailure(message, failures, now + policy.backoff(failures))


def _by_model(deployment: Deployment) -> dict[str, list[RevisionDeployment]]:
    models: dict[str, list[RevisionDeployment]] = {}
    for revision in deployment.revisions.values():
        models.setdefault(revision.model, []).append(revision)
    return models


def _wishes(world: World, policy: Policy) -> dict[str, Wish]:
    deployed = _by_model(world.deployment)
    if world.observed is None:
        return {
            name: wish_without_registry(deployed[name], off_of(world, name))
            for name in sorted(deployed)
        }
    registry: Registry = world.observed
    prepared, trials = world.prepared, world.trials
    wishes: dict[str, Wish] = {}
    for name in sorted({*registry, *deployed}):
        revisions, off = deployed.get(name, []), off_of(world, name)
        try:
            wish = wish_of(
                name=name,
                model=registry.get(name),
                revisions=revisions,
                prepared=prepared,
                policy=policy,
                trials=trials,
                turned_off=off,
            )
        except Exception as error:  # what nobody thought of in one model must not stop the others
            problem = f"its wishes cannot be told: {type(error).__name__}: {error}"
            kept = wish_without_registry(revisions, off)
            wish = replace(kept, problems=(problem,), fault=error)
        wishes[name] = wish
    return wishes


def _step(
    world: World, wishes: Mapping[str, Wish], reports: Reports, policy: Policy
) -> tuple[World, Placing]:
    generation = next_generation(world)
    places: dict[str, list[ReplicaPlacement]] = {}
    for each in world.deployment.placement:
        places.setdefault(each.revision, []).append(each)
    revisions: list[RevisionDeployment] = []
    waiting: set[str] = set()
    deployed = _by_model(world.deployment)
    for name, wish in wishes.items():
        model = _Model(world, reports, policy, places, generation)
        revisions += model.advance(deployed.get(name, []), wish)
        waiting |= model.waiting
    placing = place(
        [revision for revision in revisions if revision.revision not in waiting],
        world.deployment.placement,
        reports,
        settling=world.settling,
    )
    deployment = Deployment(
        revisions={each.revision: each for each in sorted(revisions, key=lambda r: r.revision)},
        placement=placing.places,
        serial=world.deployment.serial,
        workers=_known_workers(world),
    )
    routing = route_models(world, wishes, deployment, generation, reports)
    result = replace(world, deployment=deployment, routing=routing)
    return replace(result, turned_off=world.turned_off - spent(result, policy)), placing


def _known_workers(world: World) -> tuple[str, ...]:
    """Incarnations that the placement is decided about."""
    present = {worker.incarnation for worker in world.workers}
    remembered = set(world.deployment.workers or ()) if world.settling else set()
    return tuple(sorted(present | remembered))


def _outgoing(revision: RevisionDeployment, wished: ServingSettings | None) -> RevisionDeployment:
    """What serves until the target does: with fewer replicas if fewer are asked for, never more.

    The target may need their room.
    """
    if wished is None:
        return revision
    replicas = revision.replicas
    if replicas != "each" and wished.replicas != "each":
        replicas = min(replicas, wished.replicas)
    job_replicas = min(revision.job_replicas, wished.job_replicas)
    return revision.model_copy(update={"replicas": replicas, "job_replicas": job_replicas})


class _Model:
    """One step of one model's revisions."""

    def __init__(
        self,
        world: World,
        reports: Reports,
        policy: Policy,
        places: Mapping[str, Sequence[ReplicaPlacement]],
        generation: int,
    ) -> None:
        self._world = world
        self._now = world.now
        self._reports = reports
        self._policy = policy
        self._places = places
        self._generation = generation
        self.waiting: set[str] = set()

    def advance(
        self, revisions: Sequence[RevisionDeployment], wish: Wish
    ) -> list[RevisionDeployment]:
        kept = [self._since_now(each) for each in revisions]
        kept = [each for each in kept if not self._is_drained(each)]
        kept = [self._with_failures(each) for each in kept]
        kept = self._towards(kept, wish)
        kept = self._flipped(kept)
        self.waiting = self._waiting(kept)
        return kept

    def _own(self, revision: RevisionDeployment) -> Sequence[ReplicaPlacement]:
        return self._places.get(revision.revision, ())

    def _in_phase(self, revision: RevisionDeployment, phase: Phase) -> RevisionDeployment:
        return revision.model_copy(update={"phase": phase, "changed_at": self._now})

    def _wished(self, revision: RevisionDeployment) -> RevisionDeployment:
        """Wished for from now on."""
        update = {"wished_at": self._now}
        return self._in_phase(revision, Phase.LOADING).model_copy(update=update)

    def _draining(self, revision: RevisionDeployment) -> RevisionDeployment:
        drained = {"drain_generation": self._generation, "retry_at": None, "message": ""}
        return self._in_phase(revision, Phase.DRAINING).model_copy(update=drained)

    def _since_now(self, revision: RevisionDeployment) -> RevisionDeployment:
        """What drains since a time that is yet to come, by a clock that was set back since."""
        if revision.phase is Phase.DRAINING and revision.changed_at > self._now:
            return revision.model_copy(update={"changed_at": self._now})
        return revision

    def _is_drained(self, revision: RevisionDeployment) -> bool:
        if revision.phase is not Phase.DRAINING:
            return False
        if self._now - revision.changed_at >= self._policy.flip_grace_s:
            return True
        gateways = self._reports.gateways
        return (
            bool(gateways)
            and not self._world.settling
            and all(each.generation >= revision.drain_generation for each in gateways)
        )

    def _with_failures(self, revision: RevisionDeployment) -> RevisionDeployment:
        """Take in what workers say of loads that failed."""
        refused = self._reports.refused(self._own(revision))
        if revision.phase is Phase.LOADING and refused:
            return self._failed(revision)
        if revision.phase is Phase.FAILED and self._is_due(revision):
            return self._in_phase(revision, Phase.LOADING).model_copy(update={"retry_at": None})
        if revision.phase is Phase.SERVING:
            return self._serving_failures(revision)
        return revision

    def _failed(self, revision: RevisionDeployment) -> RevisionDeployment:
        refused = self._reports.refused(self._own(revision))
        invalid = [each for each in refused if each.state is ReplicaState.INVALID]
        failures = revision.failures + 1
        update = {
            "failures": failures,
            "retry_at": None if invalid else self._now + self._policy.backoff(failures),
            "message": (invalid or refused)[0].message or "it could not be loaded",
        }
        return self._in_phase(revision, Phase.FAILED).model_copy(update=update)

    def _is_due(self, revision: RevisionDeployment) -> bool:
        """Whether it is to be tried again; also where a clock that was set back would forbid it."""
        if revision.retry_at is None:
            return False
        wait_s = revision.retry_at - self._now
        return wait_s <= 0 or wait_s > self._policy.backoff_max_s

    def _serving_failures(self, revision: RevisionDeployment) -> RevisionDeployment:
        """What serves is never failed; its failed places are tried again, each time later.

        A change of `failures` is what asks a worker for another try.
        """
        own = self._own(revision)
        refused = self._reports.refused(own)
        failures, retry_at, message = revision.failures, revision.retry_at, revision.message
        if self._is_due(revision):
            failures, retry_at = failures + len(refused[:1]), None
        elif refused and retry_at is None:
            retry_at = self._now + self._policy.backoff(failures + 1)
            message = refused[0].message or "a replica could not be loaded"
        elif own and self._reports.ready(own) == len(own):
            failures, retry_at, message = 0, None, ""
        update = {"failures": failures, "retry_at": retry_at, "message": message}
        return revision.model_copy(update=update)

    def _towards(
        self, revisions: Sequence[RevisionDeployment], wish: Wish
    ) -> list[RevisionDeployment]:
        target = wish.target
        result: list[RevisionDeployment] = []
        for each in revisions:
            if target is not None and each.revision == target.revision:
                result.append(self._as_wished(each, target))
            elif each.phase is Phase.SERVING and wish.version is None:
                result.append(self._draining(each))
            elif each.phase is Phase.SERVING:
                result.append(_outgoing(each, wish.outgoing))
            elif each.phase is Phase.DRAINING:
                result.append(each)
            elif each.drain_generation:
                result.append(self._in_phase(each, Phase.DRAINING))
        if target is not None and all(each.revision != target.revision for each in result):
            result.append(self._wished(target))
        return self._replaced(result)

    def _as_wished(
        self, revision: RevisionDeployment, target: RevisionDeployment
    ) -> RevisionDeployment:
        """The target, with what may change of it in place."""
        wished = revision.model_copy(update={name: getattr(target, name) for name in IN_PLACE})
        if revision.phase is Phase.DRAINING:
            return self._wished(wished)
        changed = any(getattr(wished, name) != getattr(revision, name) for name in PLACED_BY)
        if revision.phase is Phase.FAILED and changed:
            return self._in_phase(wished, Phase.LOADING).model_copy(update={"retry_at": None})
        return wished

    def _replaced(self, revisions: list[RevisionDeployment]) -> list[RevisionDeployment]:
        """Drain what serves if the target asked for its room and has no places yet."""
        makes_room = any(
            each.phase is Phase.LOADING and each.swap == "replace" and not self._own(each)
            for each in revisions
        )
        return [
            self._draining(each) if makes_room and each.phase is Phase.SERVING else each
            for each in revisions
        ]

    def _flipped(self, revisions: list[RevisionDeployment]) -> list[RevisionDeployment]:
        serving = next((each for each in revisions if each.phase is Phase.SERVING), None)
        ready = next(
            (
                each
                for each in revisions
                if each.phase is Phase.LOADING and self._may_flip(each, serving)
            ),
            None,
        )
        if ready is None:
            return revisions
        return [
            self._served(each)
            if each is ready
            else (self._draining(each) if each is serving else each)
            for each in revisions
        ]

    def _served(self, revision: RevisionDeployment) -> RevisionDeployment:
        update = {"failures": 0, "retry_at": None, "message": "", "drain_generation": 0}
        return self._in_phase(revision, Phase.SERVING).model_copy(update=update)

    def _may_flip(self, revision: RevisionDeployment, serving: RevisionDeployment | None) -> bool:
        if serving is not None and self._world.settling:
            return False
        places = self._own(revision)
        needed = max(1, len(places), self._floor(revision, serving))
        if self._reports.ready(places) < needed:
            return False
        seen = self._reports.seen_by_gateways(revision.revision)
        return seen is None or seen >= needed

    def _floor(self, revision: RevisionDeployment, serving: RevisionDeployment | None) -> int:
        """What serves now, as far as the new revision was asked to have as much."""
        if serving is None:
            return 0
        return min(asked(revision, self._reports), self._reports.ready(self._own(serving)))

    def _waiting(self, revisions: Sequence[RevisionDeployment]) -> set[str]:
        """Replacing revisions whose predecessors still have room that is to be theirs."""
        waiting = {
            each.revision
            for each in revisions
            if each.phase is Phase.LOADING and each.swap == "replace" and not self._own(each)
        }
        if not waiting:
            return set()
        model = revisions[0].model
        others = any(each.phase in (Phase.SERVING, Phase.DRAINING) for each in revisions) or any(
            replica.model == model and replica.revision not in waiting and replica.pid is not None
            for replica in self._reports.all_replicas()
        )
        return waiting if others else set()

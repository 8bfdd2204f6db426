"""Reconciliation against a simulated system that lags, fails and loses workers.

The system: workers that start what is placed on them some steps later, gateways that see replicas
and routing tables some steps later, operators that edit tags at any time. Hypothesis chooses who
moves. After every step the invariants of `reconcile` are checked; at the end everybody moves until
nothing changes, and what was wished must be what serves.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.registry_sync.plan.history import FAILURES_TOLD_MAX
from penstock.registry_sync.plan.reconcile import plan
from penstock.registry_sync.plan.world import FetchFailure, Policy, World
from penstock.registry_sync.sources.types import ObservedModel, VersionKey, with_status
from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    Phase,
    ReplicaPlacement,
    ReplicaReport,
    ReplicaState,
)
from penstock.shared.contracts.history import EventKind, HistoryEvent, ModelPast
from penstock.shared.contracts.routing import RoutingTable
from tests.support.examples import examples
from tests.unit.registry_sync.worlds import (
    MIB,
    WALL,
    gateway,
    manifest_for,
    observed,
    worker,
    written,
)

POLICY = Policy(flip_grace_s=1000.0)  # so long that only acknowledgements end a revision here
BROKEN = "9"
"""A version that never loads."""

STREAMING = "3"
"""A version that streams."""

WORKERS = ("w1", "w2", "w3")
GATEWAYS = ("g1", "g2")


@dataclass
class SimulatedWorker:
    """Runs replicas; `advance` moves each of them one state on, towards what is placed."""

    name: str
    alive: bool = True
    replicas: dict[str, tuple[ReplicaPlacement, ReplicaState]] = field(default_factory=dict)

    def advance(self, deployment: Deployment) -> None:
        placed = {each.key: each for each in deployment.placement if each.worker == self.name}
        following: dict[str, tuple[ReplicaPlacement, ReplicaState]] = {}
        for key, each in placed.items():
            state = self.replicas[key][1] if key in self.replicas else None
            if state is None:
                following[key] = (each, ReplicaState.LOADING)
            elif each.version == BROKEN:
                following[key] = (each, ReplicaState.FAILED)
            else:
                following[key] = (each, ReplicaState.READY)
        self.replicas = following

    def reports(self) -> list[ReplicaReport]:
        return [
            ReplicaReport(
                key=key,
                replica=key,
                model=each.model,
                version=each.version,
                revision=each.revision,
                state=state,
                device=each.device,
                pid=1,
            )
            for key, (each, state) in self.replicas.items()
        ]


class System:
    """Everything around the plan."""

    def __init__(self) -> None:
        self.now = WALL
        self.wishes: dict[str, dict[str, str]] = {}
        self.tags: dict[str, str] = {}
        self.trials: dict[str, int] = {}
        self.turned_off: frozenset[VersionKey] = frozenset()
        self.there = True
        self.deleted: set[str] = set()
        self.model: ObservedModel | None = None
        self.blind = False
        self.past: dict[str, ModelPast] = {}
        self.events: list[HistoryEvent] = []
        self.deployment = Deployment()
        self.routing = RoutingTable()
        self.prepared: dict[ArtifactSource, ArtifactManifest | FetchFailure] = {}
        self.workers = {name: SimulatedWorker(name) for name in WORKERS}
        self.acknowledged = dict.fromkeys(GATEWAYS, RoutingTable())
        self.seen: dict[str, dict[str, int]] = {name: {} for name in GATEWAYS}

    def ready(self, revision: str) -> int:
        return sum(
            each.revision == revision and state is ReplicaState.READY
            for worker in self.workers.values()
            if worker.alive
            for each, state in worker.replicas.values()
        )

    def world(self) -> World:
        model = self.model
        return World(
            observed=None if self.blind else ({} if model is None else {model.name: model}),
            deployment=self.deployment,
            routing=self.routing,
            workers=[
                worker(each.name, each.reports(), memory=4096 * MIB)
                for each in self.workers.values()
                if each.alive
            ],
            gateways=[
                gateway(name, self.acknowledged[name].generation, self.seen[name])
                for name in GATEWAYS
            ],
            now=self.now,
            prepared=dict(self.prepared),
            trials=dict(self.trials),
            turned_off=self.turned_off,
            past=dict(self.past),
        )

    def plan(self) -> None:
        before = self.world()
        result = plan(before, POLICY)
        self._check(before, result.deployment, result.routing)
        self.deployment, self.routing = result.deployment, result.routing
        self.turned_off -= result.spent
        self.past = written(self.past, result)
        self.events += result.events
        for update in result.statuses:
            if self.model is not None:
                self.model = with_status({self.model.name: self.model}, update)[self.model.name]
        for source in result.fetches:
            streams = source.uri.endswith(f"/{STREAMING}")
            self.prepared[source] = manifest_for(source).model_copy(update={"streams": streams})
        if not result.fetches:
            again = plan(self.world(), POLICY)
            assert (again.deployment, again.routing) == (result.deployment, result.routing)
            assert again.statuses == ()
            assert (again.events, again.past) == ((), {})

    def _check(self, before: World, deployment: Deployment, routing: RoutingTable) -> None:
        self._check_documents(deployment, routing)
        route, old = routing.models.get("digits"), before.routing.models.get("digits")
        if routing != before.routing:
            assert routing.generation > before.routing.generation
        for name, revision in before.deployment.revisions.items():
            # What any gateway may still route to is not removed.
            routed = any(_routes(table, name) for table in self.acknowledged.values())
            assert not (routed and name not in deployment.revisions)
            if revision.phase is Phase.SERVING:
                assert name in deployment.revisions
        if route is None or old is None or not old.versions or route.versions == old.versions:
            return
        if not route.versions:
            assert self._may_be_unrouted(before)
        elif route.versions[0].revision != old.versions[0].revision:
            # A flip: all gateways see the new one, and no capacity is lost.
            new = deployment.revisions[route.versions[0].revision]
            asked = new.replicas if isinstance(new.replicas, int) else 1
            floor = max(1, min(asked, self.ready(old.versions[0].revision)))
            assert self.ready(new.revision) >= floor
            assert all(seen.get(new.revision, 0) >= floor for seen in self.seen.values())

    def _check_documents(self, deployment: Deployment, routing: RoutingTable) -> None:
        serving = [r for r in deployment.revisions.values() if r.phase is Phase.SERVING]
        assert len(serving) <= 1
        route = routing.models.get("digits")
        routed = [each.revision for each in route.versions] if route is not None else []
        assert routed == [each.revision for each in serving]
        phases = {each.revision: each.phase for each in deployment.revisions.values()}
        assert all(phases[each.revision] is not Phase.FAILED for each in deployment.placement)
        assert len({each.key for each in deployment.placement}) == len(deployment.placement)

    def _may_be_unrouted(self, before: World) -> bool:
        serving = [r for r in before.deployment.revisions.values() if r.phase is Phase.SERVING]
        off = {v for v, tags in self.wishes.items() if tags.get("penstock.role") == "off"}
        off |= {version for _, version in before.turned_off}
        replaced = "replace" in (
            self.tags.get("penstock.swap"),
            *(each.swap for each in before.deployment.revisions.values()),
        )
        return serving[0].version in off or replaced

    def gateway_looks(self, name: str) -> None:
        self.acknowledged[name] = self.routing
        ready: dict[str, int] = {}
        for each in self.deployment.revisions:
            ready[each] = self.ready(each)
        self.seen[name] = ready

    def observe(self) -> None:
        if not self.there:
            self.model = None
            return
        known = {each.version for each in self.deployment.revisions.values()}
        statuses = {v.version: v.tags for v in self.model.versions} if self.model else {}
        seen = {
            version: {
                **{k: t for k, t in statuses.get(version, {}).items() if "status" in k},
                **tags,
            }
            for version, tags in self.wishes.items()
            if tags or version in known or version in statuses
        }
        self.model = observed(versions=seen, tags=self.tags)

    def rest(self) -> None:
        """Everybody moves, until nothing changes."""
        self.blind = False
        quiet = 0
        for _ in range(30):
            before = (self.deployment, self.routing)
            self.observe()
            self.plan()
            for each in self.workers.values():
                each.alive = True
                each.advance(self.deployment)
            for name in GATEWAYS:
                self.gateway_looks(name)
            self.now += 400
            quiet = quiet + 1 if before == (self.deployment, self.routing) else 0
            if quiet == 3:
                return


def _routes(table: RoutingTable, revision: str) -> bool:
    route = table.models.get("digits")
    return route is not None and any(each.revision == revision for each in route.versions)


VERSIONS = st.sampled_from(["1", "2", "3", BROKEN])
ROLES = st.sampled_from(["stable", "stable", "stable", "off", "", "odd"])
OPERATOR = st.one_of(
    st.tuples(st.just("role"), st.tuples(VERSIONS, ROLES)),
    st.tuples(st.just("replicas"), st.sampled_from(["1", "2", "3", "each", "many"])),
    st.tuples(st.just("max_batch_size"), st.sampled_from(["8", "16", "x"])),
    st.tuples(st.just("swap"), st.sampled_from(["surge", "surge", "replace"])),
    st.tuples(st.just("hedge"), st.sampled_from(["auto", "off", "20", "x"])),
    st.tuples(st.just("jobs"), st.sampled_from(["shared", "only", "off", "x"])),
    st.tuples(st.just("batching"), st.sampled_from(["auto", "on", "off", "x"])),
    st.tuples(st.just("retry"), st.sampled_from([0, 1, 2, 3])),  # also one that was lost
    st.tuples(st.just("delete"), st.sampled_from(["1", "2", "3", BROKEN, "123" + BROKEN])),
    st.tuples(st.just("off"), VERSIONS),
    st.tuples(st.just("job_replicas"), st.sampled_from(["1", "2", "x"])),
)
OFTEN = st.sampled_from([True, True, False])
RARELY = st.sampled_from([False] * 9 + [True])


@dataclass(frozen=True)
class Moment:
    """Who moves before the next plan.

    Attributes:
        edit: what the operator does.
        workers, gateways: who is quick enough to act.
        struck: a worker that dies, or comes back empty.
        blind: the registry cannot be read.
        passed_s: time that passes.
    """

    edit: tuple[str, Any] | None
    workers: tuple[bool, ...]
    gateways: tuple[bool, ...]
    struck: str | None
    blind: bool
    passed_s: int


MOMENTS = st.builds(
    Moment,
    edit=st.one_of(st.none(), st.none(), OPERATOR),
    workers=st.tuples(OFTEN, OFTEN, OFTEN),
    gateways=st.tuples(OFTEN, OFTEN),
    struck=st.one_of(st.none(), st.none(), st.none(), st.none(), st.sampled_from(WORKERS)),
    blind=RARELY,
    passed_s=st.sampled_from([0, 1, 6, 60]),
)


def perform(system: System, moment: Moment) -> None:
    if moment.edit is not None:
        kind, what = moment.edit
        if kind == "role":
            version, role = what
            system.wishes[version] = {"penstock.role": role} if role else {}
            system.there = True
        elif kind == "delete":  # a version, or all of the model; it may be registered again
            system.wishes = {v: tags for v, tags in system.wishes.items() if v not in what}
            system.deleted |= set(what)
            system.there = bool(system.wishes)
        elif kind == "off":
            system.turned_off |= {("digits", what)}
        elif kind == "retry":
            system.trials = {"digits": what} if what else {}
        else:
            system.tags = {**system.tags, f"penstock.{kind}": what}
    if moment.struck is not None:
        alive = not system.workers[moment.struck].alive
        system.workers[moment.struck] = SimulatedWorker(moment.struck, alive=alive)
    for each, acts in zip(system.workers.values(), moment.workers, strict=True):
        if each.alive and acts:
            each.advance(system.deployment)
    for name, acts in zip(GATEWAYS, moment.gateways, strict=True):
        if acts:
            system.gateway_looks(name)
    system.now += moment.passed_s
    system.blind = moment.blind
    system.observe()
    system.plan()


@examples(100)
@given(moments=st.lists(MOMENTS, min_size=20, max_size=40))
def test_whatever_happens_invariants_hold_and_the_wish_comes_true(moments: list[Moment]) -> None:
    system = System()
    system.wishes["1"] = {"penstock.role": "stable"}
    for moment in moments:
        perform(system, moment)
    system.rest()
    _check_history(system)
    route = system.routing.models.get("digits")
    routed = route.versions[0].version if route is not None and route.versions else None
    roles = {version: tags.get("penstock.role") for version, tags in system.wishes.items()}
    off = {version for _, version in system.turned_off}
    stable = [v for v, role in roles.items() if role == "stable" and v not in off]
    wish = max(stable, key=int) if stable else None
    if wish is not None and wish != BROKEN:
        assert routed == wish
        _check_full(system, wish)
    if wish is None and routed is not None:
        assert roles.get(routed) != "off"  # with a wish, it serves until that is ready
        assert routed not in off
    # What is turned off still is what the registry would have served otherwise.
    assert all(roles.get(version) == "stable" for version in off)


def test_what_a_gateway_may_be_routed_to_goes_on_though_it_was_wished_for_in_between() -> None:
    still = Moment(None, (True, True, True), (True, True), None, False, 0)
    one_looks = replace(still, gateways=(False, True))
    system = System()
    system.wishes["1"] = {"penstock.role": "stable"}
    for _ in range(9):
        perform(system, still)
    perform(system, replace(still, edit=("swap", "replace")))
    perform(system, replace(still, edit=("jobs", "only")))
    perform(system, replace(one_looks, edit=("jobs", "shared"), struck="w3"))
    perform(system, replace(one_looks, edit=("max_batch_size", "8")))  # which checks


def _check_history(system: System) -> None:
    """What was written down tells what served, what did not, and why."""
    served, serving, told = set(), "", dict.fromkeys([*"123", BROKEN], 0)
    failing: set[str] = set()
    for event in system.events:
        match event.kind:
            case EventKind.SWITCHED:
                assert event.before == serving
                serving = event.version
                served.add(serving)
            case EventKind.RETIRED:
                assert event.version in served - {serving}
            case EventKind.WITHDRAWN:
                assert event.version not in served - system.deleted  # or it is another by that name
            case EventKind.WANTED:
                told[event.version] = 0
            case EventKind.FAILED:
                failing.add(event.version)
                told[event.version] += 1
                assert told[event.version] <= FAILURES_TOLD_MAX
                assert event.why
            case EventKind.RECOVERED:
                failing.remove(event.version)
                told[event.version] = 0
    now = [r for r in system.deployment.revisions.values() if r.phase is Phase.SERVING]
    assert [serving] == ([each.version for each in now] or [""])
    past = system.past.get("digits", ModelPast()).versions
    known = {version for version, of_it in past.items() if of_it.served}
    # What is gone from the registry, and serves no more, is forgotten.
    assert served - {""} - system.deleted <= known <= served


def _check_full(system: System, version: str) -> None:
    """Exactly the wished revision is left, with all its replicas, as the wish says."""
    (revision,) = system.deployment.revisions.values()
    assert (revision.version, revision.phase) == (version, Phase.SERVING)
    wanted = 3 if revision.replicas == "each" else revision.replicas
    if version == STREAMING and revision.settings.jobs is None:
        wanted += revision.job_replicas
    assert len(system.deployment.placement) == wanted == system.ready(revision.revision)
    model = system.model
    assert model is not None
    seen = model.version(version)
    assert seen is not None
    assert seen.tags["penstock.status"] == "serving"

"""What metrics say of versions: what failed stays so until it serves or nobody wants it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.plan.version_phases import OTHERS, PHASES, phase_counts, version_phases
from penstock.registry_sync.plan.world import FetchFailure
from penstock.registry_sync.sources.types import Status
from penstock.shared.contracts.deployment import Phase, ReplicaState
from tests.unit.registry_sync.worlds import STABLE, Scene, observed, registry

DIGITS_2 = ("digits", "2")


def serving_1_asked_for_2() -> Scene:
    scene = Scene()
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.settle()
    scene.models = registry(observed(versions={"1": STABLE, "2": STABLE}))
    return scene


def phases_of(scene: Scene) -> dict[tuple[str, str], set[str]]:
    result = scene.plan()
    found = version_phases(result.deployment, result.told)
    return {key: {phase.value for phase in phases} for key, phases in found.items()}


def revision_phase(scene: Scene) -> Phase:
    (found,) = [each for each in scene.deployment.revisions.values() if each.version == "2"]
    return found.phase


def test_failed_stays_while_it_is_tried_again_and_ends_when_it_serves() -> None:
    scene = serving_1_asked_for_2()
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    seen = set()
    for _ in range(40):
        assert phases_of(scene) == {("digits", "1"): {"serving"}, DIGITS_2: {"failed"}}
        seen.add(revision_phase(scene))
        scene.now += 1.0
        scene.plan()
        seen.add(revision_phase(scene))
        assert phases_of(scene)[DIGITS_2] == {"failed"}
        scene.obey()
    assert seen == {Phase.FAILED, Phase.LOADING}  # it was tried again meanwhile
    scene.states.clear()
    scene.now += 400
    scene.settle()
    assert phases_of(scene) == {DIGITS_2: {"serving"}}


def test_failed_ends_when_nobody_wants_it() -> None:
    scene = serving_1_asked_for_2()
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    scene.models = registry(observed(versions={"1": STABLE, "2": {}}))
    scene.settle()
    assert phases_of(scene) == {("digits", "1"): {"serving"}}


def test_a_first_load_is_loading() -> None:
    scene = serving_1_asked_for_2()
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    assert phases_of(scene)[DIGITS_2] == {"loading"}


def test_what_can_never_be_loaded_is_invalid() -> None:
    scene = serving_1_asked_for_2()
    scene.states["2"] = ReplicaState.INVALID
    scene.settle()
    assert phases_of(scene)[DIGITS_2] == {"invalid"}


def test_artifacts_that_cannot_be_had_are_a_failure_though_nothing_is_deployed() -> None:
    scene = serving_1_asked_for_2()
    (source,) = scene.plan().fetches
    scene.prepared[source] = FetchFailure("no such file", 1, scene.now + 5)
    assert phases_of(scene)[DIGITS_2] == {"failed"}
    scene.now += 6
    assert scene.plan().fetches == (source,)  # it is tried again
    assert phases_of(scene)[DIGITS_2] == {"failed"}


def test_what_finds_no_room_is_failed_and_not_loading() -> None:
    scene = serving_1_asked_for_2()
    scene.workers["w1"] = scene.workers["w1"].model_copy(update={"memory_bytes": 1})
    scene.settle()
    assert phases_of(scene)[DIGITS_2] == {"failed"}


def test_a_registry_that_is_away_hides_no_failure() -> None:
    scene = serving_1_asked_for_2()
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    scene.models = None
    assert phases_of(scene)[DIGITS_2] == {"failed"}


@given(
    troubled=st.sets(st.integers(0, 30), max_size=10),
    versions=st.integers(0, 30),
    named=st.integers(0, 20),
)
def test_names_are_bounded_and_failures_are_named_first(
    troubled: set[int], versions: int, named: int
) -> None:
    phases = {
        ("m", str(number)): frozenset({Status.FAILED if number in troubled else Status.SERVING})
        for number in range(versions)
    }
    counts = phase_counts(phases, named)
    shown = {(model, version) for model, version, _ in counts} - {OTHERS}
    assert len(shown) == min(named, versions)
    failed = {key for key, each in phases.items() if Status.FAILED in each}
    assert len(failed & shown) == min(named, len(failed))
    for phase in PHASES:
        of_phase = sum(count for (_, _, each), count in counts.items() if each is phase)
        assert of_phase == sum(phase in each for each in phases.values())


def test_a_swap_takes_as_long_as_all_its_tries() -> None:
    scene, counts = serving_1_asked_for_2(), SyncCounts()

    def planned() -> None:
        before = scene.deployment
        counts.applied(before, scene.plan().deployment)
        scene.obey()

    scene.states["2"] = ReplicaState.FAILED
    for _ in range(5):
        planned()
    began_at = scene.now
    scene.states.clear()
    scene.now += 6.0  # it is tried again, and serves
    for _ in range(5):
        planned()
    assert scene.route() == "2"
    (family,) = counts.swaps.collect()
    sums = {s.labels["model"]: s.value for s in family.samples if s.name.endswith("_sum")}
    assert sums == {"": 0.0, "digits": scene.now - began_at}

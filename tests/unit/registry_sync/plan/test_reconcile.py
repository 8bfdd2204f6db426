"""Reconciliation, case by case: what an operator does, and what must and must not follow."""

from __future__ import annotations

from collections import UserDict
from dataclasses import replace
from typing import NoReturn

import pytest
from mlflow.utils.validation import _validate_model_name

from penstock.registry_sync.plan.world import FetchFailure
from penstock.registry_sync.sources.types import MESSAGE_LENGTH_MAX
from penstock.shared.contracts.deployment import ReplicaState
from penstock.shared.contracts.ids import is_model_name
from tests.unit.registry_sync.worlds import (
    MIB,
    OFF,
    STABLE,
    WALL,
    Scene,
    manifest_for,
    observed,
    registry,
    source_of,
    worker,
)


def serving(*workers: str, gateways: tuple[str, ...] = ("g1",), **tags: str) -> Scene:
    """A scene in which version 1 serves."""
    scene = Scene(*workers, gateways=gateways)
    wishes = {f"penstock.{name}": value for name, value in tags.items()}
    scene.models = registry(observed(versions={"1": STABLE}, tags=wishes))
    scene.settle()
    assert scene.route() == "1"
    return scene


def ask(scene: Scene, versions: dict[str, dict[str, str]], **tags: str) -> None:
    wishes = {f"penstock.{name}": value for name, value in tags.items()}
    scene.models = registry(observed(versions=versions, tags=wishes))


def test_a_first_version_is_announced_before_it_is_ready() -> None:
    scene = Scene()
    scene.models = registry(observed(versions={"1": STABLE}))
    first = scene.plan()
    route = scene.routing.models["digits"]
    assert route.versions == ()
    assert route.reason == "version 1 is loading"
    assert route.generation == scene.routing.generation == int(WALL * 1000)
    assert len(first.fetches) == 1
    assert scene.status("1") == ("loading", "artifacts are being fetched")
    scene.settle()
    assert scene.route() == "1"
    assert scene.status("1") == ("serving", "")


def test_a_swap_flips_when_ready_and_drains_until_acknowledged() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    assert scene.route() == "1"
    assert scene.phases() == {"1": "serving", "2": "loading"}
    assert scene.status("1") == ("serving", "until version 2 is ready")
    scene.states.clear()
    scene.obey()
    scene.plan()
    assert scene.route() == "2"
    assert scene.phases() == {"1": "draining", "2": "serving"}
    assert scene.status("1") == ("draining", "")
    assert len(scene.deployment.placement) == 2
    scene.settle()
    assert scene.phases() == {"2": "serving"}
    assert scene.status("1") == ("superseded", "version 2 is stable by its tag")


def test_no_flip_before_every_gateway_sees_the_new_version() -> None:
    scene = serving(gateways=("g1", "g2"))
    ask(scene, {"2": STABLE})
    scene.plan()
    scene.obey()
    scene.mute = True
    scene.settle()
    assert scene.route() == "1"
    assert scene.status("2") == ("ready", "waits for all gateways to see it")
    scene.mute = False
    scene.obey()
    scene.plan()
    assert scene.route() == "2"


@pytest.mark.parametrize("gateways", [("g1",), ()])
def test_a_flip_waits_for_the_asked_number(gateways: tuple[str, ...]) -> None:
    scene = serving("w1", "w2", gateways=gateways, replicas="2")
    ask(scene, {"2": STABLE}, replicas="2")
    scene.plan()
    scene.obey()
    scene.plan()
    scene.obey()
    slow = scene.workers["w2"]
    loading = [
        each.model_copy(update={"state": ReplicaState.LOADING}) if each.version == "2" else each
        for each in slow.replicas
    ]
    scene.workers["w2"] = slow.model_copy(update={"replicas": tuple(loading)})
    scene.inform_gateways()
    scene.plan()
    assert scene.route() == "1"
    scene.obey()
    scene.plan()
    assert scene.route() == "2"


def test_a_flip_never_costs_ready_replicas() -> None:
    """There is room for one replica of the new version beside two of the old one."""
    scene = Scene("w1")
    scene.workers["w1"] = worker("w1", memory=800 * MIB)
    ask(scene, {"1": STABLE}, replicas="2")
    scene.settle()
    ask(scene, {"2": STABLE}, replicas="2")
    scene.settle()
    assert scene.route() == "1"
    assert scene.status("2")[0] == "failed"
    ask(scene, {"2": STABLE}, replicas="1")
    scene.settle()
    assert scene.route() == "2"


def test_a_gateway_that_does_not_acknowledge_delays_the_end_by_the_grace_only() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    for _ in range(2):
        scene.plan()
        scene.obey()
    scene.plan()
    scene.mute = True
    assert scene.phases() == {"1": "draining", "2": "serving"}
    scene.now += scene.policy.flip_grace_s - 0.1
    scene.plan()
    assert scene.phases() == {"1": "draining", "2": "serving"}
    scene.now += 0.2
    scene.plan()
    assert scene.phases() == {"2": "serving"}


def test_swapping_back_takes_what_still_runs() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    for _ in range(4):
        if scene.route() == "1":
            scene.obey()
            scene.plan()
    assert scene.phases() == {"1": "draining", "2": "serving"}
    ask(scene, {"1": STABLE})
    generation = scene.routing.generation
    scene.gateways = {
        name: each.model_copy(update={"generation": 0}) for name, each in scene.gateways.items()
    }
    scene.plan()
    assert scene.route() == "1"
    assert scene.routing.generation > generation
    assert scene.phases() == {"1": "serving", "2": "draining"}


def test_a_load_that_fails_changes_nothing_for_traffic_and_is_tried_later() -> None:
    scene = serving()
    routing = scene.routing
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    assert scene.routing == routing
    assert scene.phases() == {"1": "serving", "2": "failed"}
    assert scene.status("2") == ("failed", "as told")
    scene.now += 4.9
    scene.plan()
    assert scene.phases()["2"] == "failed"
    scene.now += 0.2
    scene.plan()
    assert scene.phases()["2"] == "loading"
    scene.obey()
    scene.plan()
    failed = next(each for each in scene.deployment.revisions.values() if each.version == "2")
    assert failed.failures == 2
    assert failed.retry_at == pytest.approx(scene.now + 10)
    scene.states.clear()
    scene.now += 11
    scene.settle()
    assert scene.route() == "2"


def test_an_invalid_model_is_not_tried_again_before_a_change() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    scene.states["2"] = ReplicaState.INVALID
    scene.settle()
    assert scene.status("2") == ("invalid", "as told")
    scene.now += 1e6
    scene.settle()
    assert scene.phases() == {"1": "serving", "2": "failed"}
    scene.states.clear()
    ask(scene, {"2": STABLE}, max_batch_size="8")
    scene.settle()
    assert scene.route() == "2"


def test_a_fetch_that_fails_is_reported_and_tried_later() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    (source,) = scene.plan().fetches
    scene.prepared[source] = FetchFailure("no such file", 1, scene.now + 5)
    assert scene.plan().fetches == ()
    assert scene.status("2") == ("failed", "artifacts: no such file")
    assert scene.route() == "1"
    scene.now += 6
    assert scene.plan().fetches == (source,)


def test_a_newer_wish_drops_what_is_loading() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    ask(scene, {"2": STABLE, "3": STABLE})
    scene.plan()
    assert scene.phases() == {"1": "serving"}
    assert scene.status("2")[0] == "superseded"
    scene.settle()
    assert scene.phases() == {"3": "serving"}


def test_off_unroutes_drains_and_retires() -> None:
    scene = serving()
    ask(scene, {"1": OFF})
    scene.plan()
    route = scene.routing.models["digits"]
    assert (route.versions, route.reason) == ((), "version 1 was turned off")
    assert scene.phases() == {"1": "draining"}
    scene.obey()
    ask(scene, {"1": {**OFF, "penstock.status": "draining"}})
    scene.settle()
    assert scene.deployment.revisions == {}
    assert scene.deployment.placement == ()
    assert "digits" not in scene.routing.models
    assert scene.status("1") == ("retired", "")


def test_a_version_that_is_off_serves_until_what_is_stable_instead_is_ready() -> None:
    scene = serving()
    ask(scene, {"1": OFF, "2": STABLE})
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    assert scene.route() == "1"
    assert scene.status("1") == ("serving", "until version 2 is ready")
    scene.states.clear()
    scene.now += 6
    scene.settle()
    assert scene.route() == "2"


def test_the_last_stable_version_serves_on_until_it_is_off() -> None:
    scene = serving()
    ask(scene, {"1": {}})
    scene.settle()
    assert scene.route() == "1"
    assert "nothing is named stable" in scene.status("1")[1]


def test_replace_ends_the_old_version_first() -> None:
    scene = serving(swap="replace")
    ask(scene, {"2": STABLE}, swap="replace")
    scene.plan()
    scene.obey()
    scene.plan()
    assert scene.phases() == {"1": "draining", "2": "loading"}
    assert {each.version for each in scene.deployment.placement} == {"1"}
    route = scene.routing.models["digits"]
    assert (route.versions, route.reason) == ((), "version 1 is being replaced by version 2")
    scene.inform_gateways()
    scene.plan()
    assert scene.phases() == {"2": "loading"}
    assert scene.deployment.placement == ()  # version 1 still has a process
    scene.settle()
    assert scene.route() == "2"


def test_new_replica_settings_swap_and_others_do_not() -> None:
    scene = serving()
    (first,) = scene.deployment.revisions
    tail = {"queue_timeout_ms": "50", "hedge": "20", "hedge_budget": "0.1"}
    ask(scene, {"1": STABLE}, timeout_ms="500", replicas="2", **tail)
    scene.settle()
    (same,) = scene.deployment.revisions
    assert same == first
    assert len(scene.deployment.placement) == 2
    (route,) = scene.routing.models["digits"].versions
    assert (route.timeout_ms, route.queue_timeout_ms) == (500, 50)
    assert (route.hedge, route.hedge_budget) == (20, 0.1)
    ask(scene, {"1": STABLE}, max_batch_size="8", replicas="2")
    scene.plan()
    assert scene.phases() == {"1": "loading"} or len(scene.deployment.revisions) == 2
    scene.settle()
    (second,) = scene.deployment.revisions
    assert second != first
    assert scene.status("1") == ("serving", "")
    ask(scene, {"1": STABLE}, max_batch_size="8", replicas="2", execution_timeout_ms="1000")
    scene.settle()
    assert second not in scene.deployment.revisions


def test_another_number_of_replicas_for_jobs_swaps_nothing() -> None:
    scene = Scene()
    scene.models = registry(observed(versions={"1": STABLE}))
    source = source_of("digits", "1")
    scene.prepared[source] = manifest_for(source).model_copy(update={"streams": True})
    scene.settle()
    before = scene.deployment
    assert [each.duty for each in before.placement] == ["calls", "jobs"]
    ask(scene, {"1": STABLE}, job_replicas="2")
    scene.settle()
    assert set(scene.deployment.revisions) == set(before.revisions)
    assert set(before.placement) < set(scene.deployment.placement)
    assert [each.duty for each in scene.deployment.placement] == ["calls", "jobs", "jobs"]
    assert scene.status("1") == ("serving", "")


def test_what_a_version_takes_is_routed_and_a_change_of_it_swaps() -> None:
    scene = serving(replicas="2")
    (first,) = scene.deployment.revisions
    ask(scene, {"1": STABLE}, replicas="2", jobs="only")
    scene.settle()
    (second,) = scene.deployment.revisions
    assert second != first
    assert [each.duty for each in scene.deployment.placement] == ["jobs", "jobs"]
    (route,) = scene.routing.models["digits"].versions
    assert (route.revision, route.jobs) == (second, "only")


def test_a_bad_value_keeps_what_runs_and_is_reported() -> None:
    scene = serving(max_batch_size="8")
    before = scene.deployment
    ask(scene, {"1": STABLE}, max_batch_size="eight")
    scene.settle()
    assert scene.deployment == before
    assert "penstock.max_batch_size is 'eight'" in scene.status("1")[1]


def test_without_the_registry_rollouts_go_on_and_losses_are_mended() -> None:
    scene = serving("w1", "w2")
    ask(scene, {"2": STABLE})
    scene.plan()
    scene.obey()
    scene.plan()
    assert scene.phases() == {"1": "serving", "2": "loading"}
    scene.models = None
    scene.settle()
    assert scene.phases() == {"2": "serving"}
    (place,) = scene.deployment.placement
    del scene.workers[place.worker]
    scene.settle()
    (moved,) = scene.deployment.placement
    assert moved.worker != place.worker
    assert scene.route() == "2"


def test_too_little_memory_is_a_clear_failure_and_mends_itself() -> None:
    scene = Scene()
    scene.workers["w1"] = worker("w1", memory=400 * MIB)
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.settle()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.settle()
    assert scene.route() == "1"
    status, message = scene.status("2")
    assert status == "failed"
    assert message.startswith("too little memory: 0 of 1 replicas fit")
    scene.workers["w1"] = scene.workers["w1"].model_copy(update={"memory_bytes": 800 * MIB})
    scene.settle()
    assert scene.route() == "2"


def test_a_routed_revision_stays_routed_when_all_its_replicas_are_down() -> None:
    scene = serving()
    routing = scene.routing
    scene.workers.clear()
    scene.settle()
    assert scene.routing == routing
    assert len(scene.deployment.placement) == 1


def test_a_serving_replica_that_cannot_load_is_tried_again_with_backoff() -> None:
    scene = serving()
    scene.states["1"] = ReplicaState.FAILED
    scene.obey()
    scene.plan()
    (revision,) = scene.deployment.revisions.values()
    assert (revision.phase, revision.failures) == ("serving", 0)
    assert revision.retry_at == pytest.approx(scene.now + 5)
    assert len(scene.deployment.placement) == 1
    assert "as told" in scene.status("1")[1]
    scene.now += 6
    scene.plan()
    (revision,) = scene.deployment.revisions.values()
    assert revision.failures == 1
    assert revision.retry_at == pytest.approx(scene.now + 10)
    scene.states.clear()
    scene.settle()
    (revision,) = scene.deployment.revisions.values()
    assert (revision.failures, revision.retry_at, revision.message) == (0, None, "")


def test_while_reports_may_still_come_absence_means_nothing() -> None:
    scene = serving("w1", "w2")
    deployment = scene.deployment
    ask(scene, {"2": STABLE})
    scene.plan()
    scene.obey()
    scene.plan()
    scene.obey()
    workers, gateways = dict(scene.workers), dict(scene.gateways)
    scene.settling = True
    scene.workers.clear()
    scene.gateways.clear()
    scene.plan()
    assert scene.phases() == {"1": "serving", "2": "loading"}
    assert set(deployment.placement) <= set(scene.deployment.placement)
    scene.workers, scene.gateways = workers, gateways
    scene.plan()
    assert scene.route() == "1"  # another gateway may yet appear
    scene.settling = False
    scene.settle()
    assert scene.phases() == {"2": "serving"}


def test_after_a_loss_of_all_state_traffic_goes_on() -> None:
    scene = serving()
    (revision,) = scene.deployment.revisions
    generation = scene.routing.generation
    scene.deployment = type(scene.deployment)()
    scene.routing = type(scene.routing)()
    scene.prepared.clear()
    scene.models = registry(observed(versions={"1": STABLE}))
    first = scene.plan()
    assert scene.routing.models == {}
    for source in first.fetches:
        scene.prepared[source] = serving().prepared[source]
    scene.plan()
    assert scene.route() == "1"
    assert set(scene.deployment.revisions) == {revision}
    assert scene.routing.generation > generation


def test_a_recreated_version_is_fetched_and_swapped() -> None:
    scene = serving()
    model = observed(versions={"1": STABLE})
    version = model.versions[0]
    source = version.source.model_copy(update={"identity": "2"})
    recreated = type(version)(version.model, version.version, source, version.tags)
    scene.models = registry(type(model)("digits", versions=(recreated,)))
    assert scene.plan().fetches == (source,)
    assert scene.route() == "1"
    scene.settle()
    (revision,) = scene.deployment.revisions.values()
    assert revision.source == source


def test_a_registry_that_moved_is_not_fetched_from_again() -> None:
    scene = serving()
    model = observed(versions={"1": STABLE})
    version = model.versions[0]
    source = version.source.model_copy(update={"tracking_uri": "http://moved"})
    moved = type(version)(version.model, version.version, source, version.tags)
    scene.models = registry(type(model)("digits", versions=(moved,)))
    before = set(scene.deployment.revisions)
    assert scene.plan().fetches == ()
    assert set(scene.deployment.revisions) == before
    (revision,) = scene.deployment.revisions.values()
    assert revision.source == source


def test_names_that_cannot_be_in_a_url_are_invalid() -> None:
    scene = Scene()
    scene.models = registry(observed("a/b", versions={"1": STABLE}))
    scene.settle()
    assert scene.status("1", "a/b") == ("invalid", "the model's name cannot be part of a URL")
    assert scene.routing.models == {}


@pytest.mark.parametrize(
    "name", ["modèle-模型", "50%off&a=b?#", "-", ".x", "a.", "a" * 256, "a\nb", 'a"b', "a\\b", "é"]
)
def test_all_names_that_mlflow_accepts_are_served(name: str) -> None:
    _validate_model_name(name)
    scene = Scene()
    scene.models = registry(observed(name, versions={"1": STABLE}))
    scene.settle()
    assert scene.status("1", name) == ("serving", "")
    assert [route.version for route in scene.routing.models[name].versions] == ["1"]


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "a:b", "a" * 257])
def test_names_that_mlflow_does_not_accept_are_none(name: str) -> None:
    assert not is_model_name(name)


def test_what_can_never_be_served_says_why_and_that_no_waiting_helps() -> None:
    scene = Scene()
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.states["1"] = ReplicaState.INVALID
    scene.settle()
    route = scene.routing.models["digits"]
    assert (route.versions, route.hopeless) == ((), True)
    assert route.reason == "version 1 cannot be served: as told"
    scene.states["1"] = ReplicaState.FAILED
    scene.models = registry(observed(versions={"2": STABLE}))
    scene.settle()
    assert not scene.routing.models["digits"].hopeless


def test_an_unknown_role_is_invalid() -> None:
    scene = Scene()
    scene.models = registry(observed(versions={"1": {"penstock.role": "canari"}}))
    scene.settle()
    status, message = scene.status("1")
    assert status == "invalid"
    assert "'canari'" in message


def test_an_alias_of_a_version_that_is_not_there_is_told() -> None:
    scene = Scene()
    told = "alias champion names version '9', which is not there yet"
    scene.models = registry(observed(versions={"1": {}, "2": {}}, aliases={"champion": "9"}))
    scene.settle()
    assert scene.deployment.revisions == {}
    assert scene.status("2") == ("invalid", told)
    scene.models = registry(observed(versions={"1": {}, "2": STABLE}, aliases={"champion": "9"}))
    scene.settle()
    assert scene.status("2") == ("serving", told)
    off = observed(versions={"1": {}, "2": OFF}, aliases={"champion": "9"})
    scene.models = registry(off)
    scene.settle()
    assert scene.route() is None, "off ends what serves, whatever an alias names"
    scene.models = registry(observed(versions={"1": {}, "2": {}}, aliases={"champion": "1"}))
    scene.settle()
    assert scene.status("1") == ("serving", "")
    assert scene.status("2") == ("retired", "")


def test_serials_grow_above_what_workers_have_seen() -> None:
    scene = Scene()
    scene.workers["w1"] = scene.workers["w1"].model_copy(update={"deployment_serial": 41})
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.settle()
    assert scene.deployment.serial > 41
    assert scene.plan().deployment.serial == scene.deployment.serial


def test_a_model_whose_wishes_cannot_be_told_goes_on() -> None:
    scene = serving()
    before = scene.deployment
    unreadable = observed(versions={"1": {}, "2": {}})
    scene.models = registry(replace(unreadable, problem="tags.yaml: line 3"))
    scene.settle()
    assert scene.deployment == before
    assert scene.status("1") == ("serving", "tags.yaml: line 3")
    assert scene.status("2") == ("", "")


def test_a_model_that_never_could_be_told_says_so_on_its_last_version() -> None:
    scene = Scene()
    unreadable = observed(versions={"1": {}, "2": {}})
    scene.models = registry(replace(unreadable, problem="tags.yaml: line 3"))
    scene.settle()
    assert scene.deployment.revisions == {}
    assert scene.status("1") == ("", "")
    assert scene.status("2") == ("invalid", "tags.yaml: line 3")


def test_content_that_is_edited_in_place_is_swapped_and_its_failure_told() -> None:
    scene = serving()
    edited = observed(versions={"1": STABLE})
    source = edited.versions[0].source.model_copy(update={"identity": "2"})
    scene.models = registry(replace(edited, versions=(replace(edited.versions[0], source=source),)))
    scene.prepared[source] = FetchFailure("no disk", 1, scene.now + 5)
    scene.settle()
    assert scene.route() == "1"
    assert scene.status("1") == ("serving", "its change failed: no disk")
    before = scene.routing.models["digits"].versions[0].revision
    scene.prepared[source] = manifest_for(source)
    scene.settle()
    assert scene.routing.models["digits"].versions[0].revision != before
    assert scene.status("1") == ("serving", "")


def test_a_placement_names_the_workers_it_was_decided_about() -> None:
    scene = Scene("w1", "w2")
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.settle()
    assert known_workers(scene) == ["w1-1", "w2-1"]
    gone = scene.workers.pop("w2")
    scene.settling = True  # it may only not have reported yet
    scene.plan()
    assert known_workers(scene) == ["w1-1", "w2-1"]
    scene.settling = False
    serial = scene.deployment.serial
    scene.plan()
    assert known_workers(scene) == ["w1-1"]
    assert scene.deployment.serial == serial + 1
    scene.workers["w2"] = gone
    scene.plan()
    assert known_workers(scene) == ["w1-1", "w2-1"]


def known_workers(scene: Scene) -> list[str]:
    return list(scene.deployment.workers or ())


@pytest.mark.parametrize("state", [ReplicaState.BACKOFF, ReplicaState.LOADING])
def test_a_version_that_serves_and_crashes_again_and_again_says_why(state: ReplicaState) -> None:
    scene = Scene()
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.settle()
    assert scene.status("1") == ("serving", "")
    scene.states["1"] = state
    scene.settle()
    why = "0 of 1 replicas ready; a replica ended and is started again: as told"
    assert scene.status("1") == ("serving", why)
    del scene.states["1"]
    scene.settle()
    assert scene.status("1") == ("serving", "")


def test_what_serves_makes_room_for_the_next_version_when_fewer_replicas_are_asked_for() -> None:
    scene = Scene()
    scene.workers["w1"] = worker("w1", memory=1100 * MIB)  # room for four
    both = {"1": STABLE, "2": STABLE}
    scene.models = registry(observed(versions={"1": STABLE}, tags={"penstock.replicas": "4"}))
    scene.settle()
    scene.models = registry(observed(versions=both, tags={"penstock.replicas": "4"}))
    scene.settle()
    assert "too little memory" in scene.status("2")[1]
    scene.models = registry(observed(versions=both, tags={"penstock.replicas": "8"}))
    scene.settle()
    assert scene.status("1")[1] == "until version 2 is ready"  # more only of what is to come
    scene.models = registry(observed(versions=both, tags={"penstock.replicas": "2"}))
    scene.settle()
    assert scene.route() == "2"
    assert len(scene.deployment.placement) == 2


def test_a_retry_swaps_to_a_new_trial_of_the_same_version() -> None:
    scene = serving()
    (before,) = scene.deployment.revisions
    scene.trials = {"digits": 1}
    scene.plan()
    assert scene.route() == "1"
    assert scene.routing.models["digits"].versions[0].revision == before
    scene.settle()
    (after,) = scene.deployment.revisions.values()
    assert (after.revision != before, after.settings.trial, after.phase.value) == (
        True,
        1,
        "serving",
    )
    assert scene.routing.models["digits"].versions[0].revision == after.revision


def test_a_trial_that_the_store_forgot_swaps_nothing() -> None:
    scene = serving()
    scene.trials = {"digits": 3}
    scene.settle()
    (before,) = scene.deployment.revisions
    losses: tuple[dict[str, int], ...] = ({}, {"digits": 1})
    for lost in losses:
        scene.trials = lost
        scene.settle()
        assert list(scene.deployment.revisions) == [before]


def test_a_retry_of_one_model_leaves_others_alone() -> None:
    scene = serving()
    before = scene.deployment
    scene.trials = {"other": 1}
    scene.settle()
    assert scene.deployment == before


@pytest.mark.parametrize("state", [ReplicaState.FAILED, ReplicaState.INVALID])
def test_a_retry_tries_at_once_what_failed(state: ReplicaState) -> None:
    scene = serving()
    scene.models = registry(observed(versions={"1": {}, "2": STABLE}))
    scene.states = {"2": state}
    scene.settle()
    assert scene.phases() == {"1": "serving", "2": "failed"}
    scene.states = {}
    scene.settle()
    assert scene.route() == "1"  # its time has not come, or never will
    scene.trials = {"digits": 1}
    scene.settle()
    assert scene.route() == "2"


def test_a_status_says_a_note_once_for_all_replicas() -> None:
    note = "not batched: output 'y' has 4 rows for one row"
    scene = serving()
    scene.models = registry(observed(versions={"1": STABLE}, tags={"penstock.replicas": "3"}))
    scene.notes = {"1": note}
    scene.settle()
    assert scene.status("1") == ("serving", note)
    scene.notes = {}
    scene.settle()
    assert scene.status("1") == ("serving", "")


def test_what_is_ready_says_its_note_too_and_no_note_is_too_long() -> None:
    scene = Scene()
    scene.mute = True  # no gateway sees it
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.notes = {"1": "not batched: " + "x" * 10_000}
    scene.settle()
    status, message = scene.status("1")
    assert status == "ready"
    assert message.startswith("waits for all gateways to see it; not batched: xxx")
    assert len(message) == MESSAGE_LENGTH_MAX


YEAR_S = 365 * 86_400.0


def test_a_clock_that_was_set_back_lets_a_drained_version_end_all_the_same() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    for _ in range(2):
        scene.plan()
        scene.obey()
    scene.plan()
    scene.mute = True
    assert scene.phases() == {"1": "draining", "2": "serving"}
    scene.now -= YEAR_S
    scene.plan()
    assert scene.phases() == {"1": "draining", "2": "serving"}
    scene.now += scene.policy.flip_grace_s + 0.1
    scene.plan()
    assert scene.phases() == {"2": "serving"}


def test_a_clock_that_was_set_back_lets_a_failed_load_be_tried_again() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    assert scene.phases()["2"] == "failed"
    scene.states.clear()
    scene.now -= YEAR_S
    scene.settle()
    assert scene.route() == "2"


class Hurting(UserDict[str, str]):
    """Tags that cannot be read."""

    def items(self) -> NoReturn:
        raise KeyError("nobody foresaw this")


def test_a_model_whose_wishes_cannot_be_told_stops_no_other_and_serves_on() -> None:
    scene = serving()
    hurts = replace(observed(versions={"1": {}, "2": STABLE}), tags=Hurting())
    new = replace(observed("new", {"1": STABLE}), tags=Hurting())
    scene.models = registry(hurts, new, observed("other", {"1": STABLE}))
    result = scene.settle()
    assert scene.route() == "1"
    assert scene.routing.models["other"].versions[0].version == "1"
    assert set(result.faults) == {"digits", "new"}
    told = {name: model.versions[-1].tags for name, model in scene.models.items()}
    assert told["new"]["penstock.status"] == "invalid"
    assert "KeyError: 'nobody foresaw this'" in told["new"]["penstock.status_message"]

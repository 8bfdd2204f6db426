"""What the registry has no more serves on; `penstock off` ends it, whatever the registry says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.registry_sync.plan.statuses import TURNED_OFF, for_report
from penstock.registry_sync.sources.types import ObservedModel, Registry, Status
from penstock.shared.contracts.deployment import ReplicaState
from tests.unit.registry_sync.plan.test_reconcile import ask, serving
from tests.unit.registry_sync.worlds import OFF, STABLE, Scene, observed, registry, source_of

OTHER = observed("other", {"1": {}})


def recreated(scene: Scene, tags: dict[str, str]) -> None:
    """Version 1 was deleted, and registered again with other content."""
    model = observed(versions={"1": tags})
    (seen,) = model.versions
    other = replace(seen, source=source_of("digits", "1", identity="2"))
    scene.models = registry(replace(model, versions=(other,)))


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({}, "the registry has this model no more"),
        (registry(OTHER), "the registry has this model no more"),
        (registry(observed()), "the registry has this version no more"),
        (registry(ObservedModel("digits", left_out=True)), "does not follow the model any more"),
    ],
)
def test_what_is_deleted_serves_on_and_that_is_said(models: Registry, words: str) -> None:
    scene = serving()
    before = scene.deployment, scene.routing
    scene.models = models
    scene.settle()
    assert (scene.deployment, scene.routing) == before
    status, message, gone = scene.told("1")
    assert (status, gone) == ("serving", True)
    assert message.startswith(words) or words in message
    assert "until `penstock off` ends it" in message
    assert scene.last is not None
    assert scene.last.statuses == ()  # nowhere to write it
    assert scene.last.fetches == ()  # what is cached is kept: nothing else has it
    (reported,), _ = for_report(scene.last.told)
    assert reported.gone


def test_a_registry_that_was_emptied_is_told_and_changes_nothing() -> None:
    scene = serving()
    before = scene.deployment, scene.routing
    scene.emptied = True
    scene.settle()
    assert (scene.deployment, scene.routing) == before
    assert scene.told("1")[2]
    scene.models = None  # the daemon was restarted
    scene.settle()
    assert (scene.deployment, scene.routing) == before
    assert scene.told("1")[1].startswith("the registry lists no models")
    scene.emptied, scene.models = False, registry(observed(versions={"1": STABLE}))
    scene.settle()
    assert scene.told("1") == ("serving", "", False)


def test_a_rollout_goes_on_while_the_registry_is_empty() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    scene.emptied = True
    scene.states.clear()
    scene.settle()
    assert scene.route() == "2"


def test_what_is_gone_is_mended_when_a_worker_is_lost() -> None:
    scene = serving("w1", "w2")
    scene.models = {}
    (place,) = scene.deployment.placement
    del scene.workers[place.worker]
    scene.settle()
    assert scene.route() == "1"
    assert {each.worker for each in scene.deployment.placement} == set(scene.workers)


def test_what_is_gone_is_swapped_for_what_is_named_stable() -> None:
    scene = serving()
    ask(scene, {"2": STABLE})
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    assert scene.route() == "1"
    status, message, gone = scene.told("1")
    assert (status, gone) == ("serving", True)
    assert message.endswith("until version 2 is ready")
    scene.states.clear()
    scene.now += 6
    scene.settle()
    assert scene.phases() == {"2": "serving"}


def test_a_version_that_was_registered_again_is_not_taken_for_the_one_that_serves() -> None:
    scene = serving()
    before = scene.deployment
    recreated(scene, {})
    scene.settle()
    assert scene.deployment == before
    assert scene.told("1")[1].startswith("the registry has another version of this number")
    recreated(scene, STABLE)
    scene.settle()
    (revision,) = scene.deployment.revisions.values()
    assert revision.source.identity == "2"
    assert scene.told("1") == ("serving", "", False)


def test_a_deleted_version_that_never_served_is_dropped() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    ask(scene, {"1": STABLE})
    scene.settle()
    assert scene.phases() == {"1": "serving"}


@pytest.mark.parametrize("models", [{}, registry(observed()), None])
def test_off_ends_what_is_gone_and_is_then_forgotten(models: Registry | None) -> None:
    scene = serving()
    scene.models, scene.emptied = models, models is None
    scene.settle()
    scene.turned_off = frozenset({("digits", "1")})
    scene.plan()
    route = scene.routing.models["digits"]
    assert (route.versions, route.reason) == ((), "version 1 was turned off")
    assert scene.phases() == {"1": "draining"}
    scene.settle()
    assert scene.deployment.revisions == {}
    assert scene.routing.models == {}
    # Nobody knows whether an empty registry lost a version that is named stable.
    assert scene.turned_off == (frozenset() if models is not None else {("digits", "1")})


def test_off_holds_for_as_long_as_the_registry_would_serve_the_version() -> None:
    scene = serving()
    scene.turned_off = frozenset({("digits", "1")})
    scene.settle()
    assert scene.deployment.revisions == {}
    assert scene.status("1") == ("retired", TURNED_OFF)
    assert scene.turned_off  # else it would serve again
    scene.turned_off = frozenset()  # --undo
    scene.settle()
    assert scene.route() == "1"


@pytest.mark.parametrize("tags", [{}, OFF])
def test_off_is_forgotten_once_the_registry_names_the_version_stable_no_more(
    tags: dict[str, str],
) -> None:
    scene = serving()
    scene.turned_off = frozenset({("digits", "1")})
    scene.settle()
    ask(scene, {"1": {**tags, "penstock.status": Status.RETIRED.value}})
    scene.settle()
    assert scene.turned_off == frozenset()
    ask(scene, {"1": STABLE})
    scene.settle()
    assert scene.route() == "1"


def test_off_waits_for_what_takes_over() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    scene.turned_off = frozenset({("digits", "1")})
    scene.settle()
    assert scene.route() == "1"
    scene.states.clear()
    scene.settle()
    assert scene.route() == "2"
    assert scene.turned_off == frozenset()  # version 2 goes first anyway


def test_off_of_several_brings_none_of_them_back() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.settle()
    scene.turned_off = frozenset({("digits", "1"), ("digits", "2")})
    scene.settle()
    assert scene.route() is None
    assert len(scene.turned_off) == 2
    ask(scene, {"1": STABLE, "2": STABLE, "3": STABLE})
    scene.settle()
    assert scene.route() == "3"
    assert scene.turned_off == frozenset()


def test_off_counts_while_the_registry_is_away_and_for_a_model_with_a_problem() -> None:
    scene = serving()
    scene.models = None
    scene.turned_off = frozenset({("digits", "1")})
    scene.settle()
    assert scene.deployment.revisions == {}
    scene = serving()
    scene.turned_off = frozenset({("digits", "1")})
    scene.models = registry(replace(observed(), problem="it hangs"))
    scene.settle()
    assert scene.deployment.revisions == {}
    assert scene.turned_off  # what it is named cannot be told now

"""What is written down of plans, and what it is evidence for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.registry_sync.plan.history import FAILURES_TOLD_MAX
from penstock.registry_sync.plan.world import FetchFailure
from penstock.shared.contracts.deployment import ReplicaState
from penstock.shared.contracts.history import (
    VERSIONS_MAX,
    EventKind,
    HistoryEvent,
    ModelPast,
    VersionPast,
    utc,
)
from tests.unit.registry_sync.worlds import OFF, STABLE, WALL, Scene, observed, registry

AT = utc(WALL)


def ask(
    scene: Scene,
    versions: dict[str, dict[str, str]],
    tags: dict[str, str] | None = None,
    aliases: dict[str, str] | None = None,
) -> None:
    """Change tags, keeping the statuses that were written."""
    known = scene.models["digits"].versions if scene.models else ()
    kept = {
        seen.version: {tag: text for tag, text in seen.tags.items() if "status" in tag}
        for seen in known
    }
    both = {version: {**kept.get(version, {}), **tags} for version, tags in versions.items()}
    scene.models = registry(observed(versions=both, tags=tags, aliases=aliases))


def serving() -> Scene:
    scene = Scene()
    ask(scene, {"1": STABLE})
    scene.settle()
    return scene


def told(scene: Scene) -> list[tuple[str, str, str, str]]:
    """Kind, version, who and why of each event."""
    return [(each.kind.value, each.version, each.who, each.why) for each in scene.events]


def test_a_switch_has_who_when_and_why() -> None:
    scene = serving()
    assert told(scene) == [
        ("wanted", "1", "tag penstock.role = stable", ""),
        ("switched", "1", "tag penstock.role = stable", "nothing served before"),
    ]
    scene.events.clear()
    scene.now += 60
    ask(scene, {"1": STABLE, "2": {}}, aliases={"champion": "2"})
    scene.settle()
    by = "alias champion = 2"
    assert told(scene) == [
        ("wanted", "2", by, ""),
        ("switched", "2", by, "version 2 is stable by alias champion"),
    ]
    assert {each.at for each in scene.events} == {WALL + 60}
    assert scene.events[1].before == "1"


def test_what_is_turned_off_is_retired_and_who_did_it_is_told() -> None:
    scene = serving()
    scene.events.clear()
    ask(scene, {"1": OFF})
    scene.settle()
    assert told(scene) == [
        ("switched", "", "tag penstock.role = off", "version 1 was turned off"),
        ("retired", "1", "tag penstock.role = off", ""),
    ]
    assert scene.status("1") == ("retired", "")


def test_what_never_served_is_withdrawn_and_keeps_why_it_failed() -> None:
    scene = serving()
    scene.events.clear()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.FAILED
    scene.settle()
    ask(scene, {"1": STABLE, "2": {}})
    scene.settle()
    failure = f"failed {AT}: as told"
    assert scene.status("2") == ("withdrawn", failure)
    assert told(scene) == [
        ("wanted", "2", "tag penstock.role = stable", ""),
        ("failed", "2", "", "as told"),
        ("wanted", "1", "tag penstock.role = stable", ""),
        ("withdrawn", "2", "", failure),
    ]


def test_what_is_asked_for_again_and_fails_again_is_told_again() -> None:
    scene = serving()
    scene.states["2"] = ReplicaState.FAILED
    for versions in ({"1": STABLE, "2": STABLE}, {"1": STABLE, "2": {}}) * 2:
        scene.now += 60
        ask(scene, versions)
        scene.settle()
    kinds = [each.kind for each in scene.events if each.version == "2"]
    assert kinds == [EventKind.WANTED, EventKind.FAILED, EventKind.WITHDRAWN] * 2
    assert scene.status("2") == ("withdrawn", f"failed {utc(WALL + 180)}: as told")


def test_artifacts_that_could_not_be_fetched_are_evidence_too() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    (source,) = scene.plan().fetches
    scene.prepared[source] = FetchFailure("no such file", 1, scene.now + 5)
    scene.plan()
    scene.now += 100
    ask(scene, {"1": STABLE, "2": {}})
    scene.settle()
    assert scene.status("2") == ("withdrawn", f"failed {AT}: artifacts: no such file")


def test_what_was_put_in_its_place_does_not_hide_why_a_version_failed() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.INVALID
    scene.settle()
    ask(scene, {"1": STABLE, "2": STABLE, "3": STABLE})
    scene.settle()
    stable = "version 3 is stable by its tag"
    assert scene.status("2") == ("superseded", f"{stable}; failed {AT}: as told")
    assert scene.status("1") == ("superseded", stable)


def test_what_was_only_asked_for_is_withdrawn_without_a_reason() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    ask(scene, {"1": STABLE, "2": {}})
    scene.settle()
    assert scene.status("2") == ("withdrawn", "")


def test_what_served_and_failed_since_is_retired_with_its_failure() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.settle()
    scene.states["1"] = ReplicaState.FAILED
    scene.now += 60
    ask(scene, {"1": STABLE, "2": OFF})
    scene.settle()
    ask(scene, {"1": {}, "2": STABLE})
    scene.settle()
    assert scene.status("1") == ("retired", f"failed {utc(WALL + 60)}: as told")


def test_what_serves_again_recovered_and_is_retired_without_a_failure() -> None:
    scene = Scene()
    ask(scene, {"1": STABLE})
    scene.states["1"] = ReplicaState.FAILED
    scene.settle()
    scene.states.clear()
    scene.now += 60
    scene.settle()
    kinds = [each.kind for each in scene.events]
    assert kinds == [
        EventKind.WANTED,
        EventKind.FAILED,
        EventKind.RECOVERED,
        EventKind.SWITCHED,
    ]
    ask(scene, {"1": OFF})
    scene.settle()
    assert scene.status("1") == ("retired", "")


def test_one_reason_is_told_once_and_many_are_bounded() -> None:
    scene = Scene()
    ask(scene, {"1": STABLE})
    (source,) = scene.plan().fetches
    reasons = ["away", "away", *(f"away for {count} s" for count in range(20))]
    for count, reason in enumerate(reasons):
        scene.now += 1
        scene.prepared[source] = FetchFailure(reason, count + 1, scene.now + 5)
        scene.plan()
    failed = [each.why for each in scene.events if each.kind is EventKind.FAILED]
    assert failed[:2] == ["artifacts: away", "artifacts: away for 0 s"]
    assert len(failed) == FAILURES_TOLD_MAX
    last = scene.past["digits"].versions["1"]
    assert last.last_failure == f"failed {utc(scene.now)}: artifacts: away for 19 s"


def test_settings_that_make_a_new_revision_are_named() -> None:
    scene = serving()
    scene.events.clear()
    ask(scene, {"1": STABLE}, tags={"penstock.max_batch_size": "8"})
    scene.settle()
    assert told(scene) == [("switched", "1", "tags", "max_batch_size: 32 -> 8")]
    scene.events.clear()
    scene.trials = {"digits": 3}
    scene.settle()
    assert told(scene) == [("switched", "1", "penstock retry", "trial 3 was asked for")]


def test_a_model_that_was_deleted_has_a_history_and_no_past() -> None:
    scene = serving()
    scene.events.clear()
    scene.models = {}
    scene.settle()
    assert told(scene) == []  # it goes on to serve
    scene.turned_off = frozenset({("digits", "1")})
    scene.settle()
    assert told(scene) == [
        ("switched", "", "penstock off", "version 1 was turned off"),
        ("retired", "1", "penstock off", "it is in the registry no more"),
    ]
    assert scene.past == {}


def test_a_version_that_was_turned_off_before_it_ever_served_is_withdrawn() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    scene.events.clear()
    scene.turned_off = frozenset({("digits", "2")})
    scene.settle()
    assert [each[:3] for each in told(scene)] == [
        ("wanted", "1", "tag penstock.role = stable"),
        ("withdrawn", "2", "penstock off"),
    ]
    assert scene.status("2")[0] == "withdrawn"


def test_without_the_registry_a_flip_is_told_and_nothing_is_called_gone() -> None:
    scene = serving()
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.states["2"] = ReplicaState.LOADING
    scene.settle()
    scene.events.clear()
    scene.models = None
    scene.states.clear()
    scene.settle()
    assert told(scene) == [("switched", "2", "tag penstock.role = stable", "")]


def test_what_the_registry_shows_already_is_no_event() -> None:
    scene = Scene()
    shown = {"penstock.status": "retired", "penstock.status_message": ""}
    scene.models = registry(observed(versions={"1": {**OFF, **shown}, "2": STABLE}))
    scene.settle()
    assert {each.version for each in scene.events} == {"2"}
    assert scene.status("1") == ("retired", "")


@pytest.mark.parametrize(
    ("word", "message", "expected"),
    [
        ("serving", "a note", ("retired", "")),
        ("draining", "", ("retired", "")),
        ("retired", "as it was", ("retired", "as it was")),
        ("failed", "no memory", ("withdrawn", "it was failed: no memory")),
        ("invalid", "no signature", ("withdrawn", "it was invalid: no signature")),
        ("withdrawn", "it was failed: no memory", ("withdrawn", "it was failed: no memory")),
        ("loading", "artifacts are being fetched", ("withdrawn", "")),
        ("superseded", "version 2 is stable", ("withdrawn", "")),
    ],
)
def test_where_nothing_was_written_down_the_tags_are_the_evidence(
    word: str, message: str, expected: tuple[str, str]
) -> None:
    scene = Scene()
    tags = {"penstock.status": word, "penstock.status_message": message}
    scene.models = registry(observed(versions={"1": tags}))
    scene.settle()
    assert scene.status("1") == expected


def test_who_registered_a_version_is_told_where_the_registry_says_so() -> None:
    scene = Scene()
    model = observed(versions={"1": STABLE})
    (seen,) = model.versions
    seen = replace(seen, registered_by="ann", updated_at=WALL - 5)
    scene.models = registry(replace(model, versions=(seen,)))
    scene.settle()
    wanted = scene.events[0]
    assert (wanted.registered_by, wanted.registry_updated_at) == ("ann", WALL - 5)


def test_a_version_that_nobody_named_is_not_said_to_have_a_tag() -> None:
    scene = Scene()
    model = observed(versions={"1": STABLE})
    scene.models = registry(replace(model, default="1"))
    scene.settle()
    assert scene.events[0].who == "the highest version, as none is named stable"


def test_the_past_of_a_model_is_bounded_and_keeps_what_is_not_over() -> None:
    scene = serving()
    old = {
        str(100 + number): VersionPast(over=True, changed_at=WALL - 1000 + number)
        for number in range(VERSIONS_MAX + 20)
    }
    past = scene.past["digits"]
    scene.past["digits"] = past.model_copy(update={"versions": {**past.versions, **old}})
    ask(scene, {"1": STABLE, "2": STABLE})
    scene.settle()
    versions = scene.past["digits"].versions
    assert len(versions) == VERSIONS_MAX
    assert {"1", "2"} <= versions.keys()
    assert "100" not in versions


def test_documents_of_another_version_can_be_read() -> None:
    text = '{"at": 1.0, "kind": "failed", "model": "m", "version": "1", "more": 2}'
    assert HistoryEvent.model_validate_json(text).why == ""
    assert ModelPast.model_validate_json('{"more": {}}') == ModelPast()

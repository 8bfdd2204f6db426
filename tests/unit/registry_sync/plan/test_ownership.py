"""Two systems on one registry: who notices whom, and how often they overwrite each other."""

from __future__ import annotations

import pytest

from penstock.registry_sync.plan.model_filter import ModelFilter
from penstock.registry_sync.plan.ownership import CONTEST_S, REST_MAX_S, Ownership
from penstock.registry_sync.plan.tags.names import TagNames
from penstock.registry_sync.sources.types import Registry, Status, StatusUpdate
from tests.unit.registry_sync.worlds import STABLE, Scene, observed, registry

KEY = ("digits", "1")
MINE, OTHERS = "aaa penstock@here", "bbb staging@there"


def owned(owner: str) -> Registry:
    return registry(observed(versions={"1": {"penstock.owner": owner} if owner else {}}))


def ours() -> Ownership:
    made = Ownership()
    made.claim(MINE)
    return made


@pytest.mark.parametrize("before", ["", OTHERS])
def test_an_owner_at_first_sight_proves_nothing(before: str) -> None:
    ownership = ours()
    ownership.see(owned(before), 0.0)
    assert (ownership.contested, ownership.others) == (0, ())


def test_who_overwrites_ours_is_another_system() -> None:
    ownership = ours()
    ownership.see(owned(MINE), 0.0)
    ownership.see(owned(OTHERS), 1.0)
    assert (ownership.contested, ownership.others) == (1, (OTHERS,))
    ownership.see(owned(OTHERS), 1.0 + CONTEST_S)
    assert ownership.contested == 0  # it has gone


def test_what_was_written_counts_before_it_was_seen() -> None:
    ownership = ours()
    ownership.written(StatusUpdate(*KEY, Status.SERVING, owner=MINE))
    ownership.see(owned(OTHERS), 1.0)
    assert ownership.contested == 1


def test_a_standby_elsewhere_is_the_same_system() -> None:
    ownership = ours()
    ownership.see(owned(MINE), 0.0)
    ownership.see(owned("aaa penstock@elsewhere"), 1.0)
    assert ownership.contested == 0


def test_a_store_that_was_lost_makes_another_system_without_a_contest() -> None:
    ownership = ours()
    ownership.see(owned(MINE), 0.0)
    ownership.claim("ccc penstock@here")
    ownership.see(owned(MINE), 1.0)
    assert ownership.contested == 0


def test_a_deleted_version_is_forgotten() -> None:
    ownership = ours()
    ownership.see(owned(MINE), 0.0)
    ownership.see(owned(OTHERS), 1.0)
    ownership.see({}, 2.0)
    assert ownership.contested == 0


class Sides:
    """Two systems that look every ten seconds, at one registry."""

    def __init__(self) -> None:
        self.models = registry(observed(versions={"1": STABLE}))
        self.writes = 0
        self.now = 0.0
        self.sides = []
        for owner in (MINE, OTHERS):
            ownership, scene = Ownership(), Scene()
            ownership.claim(owner)
            self.sides.append((ownership, scene))

    def look(self) -> None:
        for ownership, scene in self.sides:
            ownership.see(self.models, self.now)
            scene.models, scene.owner = self.models, ownership.owner
            scene.resting = ownership.resting(self.now)
            scene.settle()
            assert scene.models is not None
            if scene.models != self.models:
                self.writes += 1
                ownership.written(StatusUpdate(*KEY, Status.SERVING, owner=ownership.owner))
            self.models = scene.models
        self.now += 10.0


def test_both_notice_soon_and_do_not_write_back_and_forth_for_ever() -> None:
    sides = Sides()
    for _ in range(5):
        sides.look()
    assert [each.others for each, _ in sides.sides] == [(OTHERS,), (MINE,)]
    while sides.now < 2 * 3600:
        sides.look()
        assert all(each.contested for each, _ in sides.sides)  # it is said all the while
    assert sides.writes < 2 * 2 * 3600 / REST_MAX_S + 30


def test_prefixes_translate_and_hide_the_tags_of_others() -> None:
    names = TagNames("staging")
    assert names.outward("penstock.role") == "staging.role"
    tags = {"penstock.role": "off", "staging.role": "stable", "staging2.role": "off", "team": "x"}
    assert names.inward(tags) == {"penstock.role": "stable"}
    assert TagNames().inward(tags) == {"penstock.role": "off"}


def test_messages_name_tags_as_the_operator_does() -> None:
    scene = Scene()
    tags = {**STABLE, "penstock.replicas": "many", "penstock.replics": "2"}
    scene.policy = type(scene.policy)(tag_names=TagNames("staging"))
    scene.models = registry(observed(versions={"1": tags, "2": {"penstock.role": "odd"}}))
    scene.settle()
    assert "staging.replicas is 'many'" in scene.status("1")[1]
    assert "staging.replics is no tag of Penstock" in scene.status("1")[1]
    assert scene.status("2")[1].startswith("staging.role is 'odd'")


@pytest.mark.parametrize(
    ("admitted", "name", "tags", "is_so"),
    [
        (ModelFilter(), "m", {}, True),
        (ModelFilter(include=["a-*", "b"]), "a-1", {}, True),
        (ModelFilter(include=["a-*", "b"]), "A-1", {}, False),
        (ModelFilter(include=["a-*"], exclude=["*-x"]), "a-x", {}, False),
        (ModelFilter(tag="stage"), "m", {"stage": ""}, True),
        (ModelFilter(tag="stage"), "m", {}, False),
        (ModelFilter(tag="stage=a=b"), "m", {"stage": "a=b"}, True),
        (ModelFilter(tag="stage=a"), "m", {"stage": "b"}, False),
    ],
)
def test_filters(admitted: ModelFilter, name: str, tags: dict[str, str], is_so: bool) -> None:
    assert admitted.admits(name, tags) == is_so

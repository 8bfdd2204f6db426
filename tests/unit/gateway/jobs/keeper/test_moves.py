"""Which queues move, and where to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.jobs.keeper.moves import Move, Unserved
from penstock.shared.contracts.routing import ModelRoute, VersionRoute

SETTLE_S = 5.0
OLD = ("m", "m/1-old")


def route(*versions: VersionRoute, model: str = "m") -> ModelRoute:
    return ModelRoute(model=model, generation=1, versions=versions)


def version(number: str, revision: str, **settings: object) -> VersionRoute:
    return VersionRoute.model_validate({"version": number, "revision": revision} | settings)


def test_a_queue_moves_once_it_was_unserved_for_a_while() -> None:
    unserved, routes = Unserved(SETTLE_S), {"m": route(version("2", "r2"))}
    assert unserved.look([OLD], routes, 0.0) == []
    assert unserved.look([OLD], routes, 4.9) == []
    assert unserved.look([OLD], routes, 5.0) == [Move(*OLD, "r2", "2", {"2": "r2"})]


def test_news_in_time_keep_a_queue_where_it_is() -> None:
    unserved, stale = Unserved(SETTLE_S), {"m": route(version("2", "r2"))}
    unserved.look([OLD], stale, 0.0)
    assert unserved.look([OLD], {"m": route(version("1", OLD[1]))}, 3.0) == []
    assert unserved.look([OLD], stale, 6.0) == []  # it counts from anew


def test_a_queue_that_was_empty_meanwhile_counts_from_anew() -> None:
    unserved, routes = Unserved(SETTLE_S), {"m": route(version("2", "r2"))}
    unserved.look([OLD], routes, 0.0)
    unserved.look([], routes, 3.0)
    assert unserved.look([OLD], routes, 6.0) == []


def test_the_successor_is_what_answers_who_pins_nothing() -> None:
    versions = (version("4", "r4", weight=0), version("3", "r3"), version("2", "r2"))
    [move] = Unserved(0.0).look([OLD], {"m": route(*versions)}, 0.0)
    assert (move.to_version, move.to_revision) == ("3", "r3")
    assert move.served == {"4": "r4", "3": "r3", "2": "r2"}


def test_jobs_stay_where_nobody_takes_them() -> None:
    for routes in (
        {},
        {"m": route()},
        {"m": route(version("2", "r2", jobs="off"))},
        {"m": route(version("2", "r2", weight=0))},
    ):
        assert Unserved(0.0).look([OLD], routes, 0.0) == []


REVISIONS = st.sampled_from(["a", "b", "c", "d"])
VERSIONS = st.lists(
    st.builds(
        VersionRoute,
        version=st.sampled_from("12345"),
        revision=REVISIONS,
        weight=st.sampled_from([0, 100]),
        jobs=st.sampled_from(["shared", "only", "off"]),
    ),
    max_size=4,
)
QUEUES = st.sets(st.tuples(st.sampled_from("mn"), REVISIONS))


@given(
    steps=st.lists(st.tuples(QUEUES, VERSIONS, st.booleans(), st.floats(0, 10)), max_size=8),
)
def test_only_what_is_unserved_moves_and_only_to_who_takes_jobs(
    steps: list[tuple[set[tuple[str, str]], list[VersionRoute], bool, float]],
) -> None:
    unserved, now = Unserved(SETTLE_S), 0.0
    since: dict[tuple[str, str], float] = {}
    for queues, versions, known, passed_s in steps:
        now += passed_s
        routes = {"m": route(*versions)} if known else {}
        served = {each.revision for each in versions}
        takers = {each.revision for each in versions if each.jobs != "off"}
        moves = unserved.look(sorted(queues), routes, now)
        for move in moves:
            queue = (move.model, move.from_revision)
            assert queue in queues
            assert move.model == "m"
            assert move.from_revision not in served
            assert {move.to_revision, *move.served.values()} <= takers
            assert now - since[queue] >= SETTLE_S
        still = {("m", each) for each in served} if known else {("m", each) for each in "abcd"}
        since = {queue: since.get(queue, now) for queue in queues - still}

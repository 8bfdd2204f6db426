"""Placement: spread, few moves, memory, devices; and what routed replicas may rely on."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock.registry_sync.plan.placement import Placing, asked, place, rendezvous
from penstock.registry_sync.plan.tags.settings import ServingSettings
from penstock.registry_sync.plan.wishes import revision_of
from penstock.registry_sync.plan.world import Policy, Reports
from penstock.shared.contracts.deployment import (
    Phase,
    ReplicaPlacement,
    ReplicaReport,
    ReplicaState,
    RevisionDeployment,
    WorkerReport,
)
from penstock.shared.contracts.routing import JobsPolicy
from tests.unit.registry_sync.worlds import MIB, gateway, manifest_for, observed, source_of, worker

WORKERS = st.sets(st.sampled_from([f"w{n}" for n in range(8)]), min_size=1)
REPLICAS = st.integers(1, 12)


def revision(
    model: str = "digits",
    replicas: int | str = 1,
    phase: Phase = Phase.SERVING,
    device: str = "auto",
    memory: int = 0,
    *,
    jobs: JobsPolicy = "shared",
    job_replicas: int = 1,
    streams: bool = False,
) -> RevisionDeployment:
    (version,) = observed(model, versions={"1": {}}).versions
    settings = ServingSettings(
        replicas=replicas,
        device=device,
        jobs=jobs,
        job_replicas=job_replicas,
    )
    manifest = manifest_for(source_of(model, "1")).model_copy(update={"streams": streams})
    made = revision_of(version, manifest, settings, Policy())
    return made.model_copy(update={"phase": phase, "memory_bytes": memory})


def running(places: tuple[ReplicaPlacement, ...], *names: str, **states: str) -> list[WorkerReport]:
    """Workers that run what is placed on them, ready unless `states` says otherwise."""
    return [
        worker(
            name,
            [
                ReplicaReport(
                    key=each.key,
                    replica=each.key,
                    model=each.model,
                    version=each.version,
                    revision=each.revision,
                    state=ReplicaState(states.get(name, "ready")),
                    device=each.device,
                )
                for each in places
                if each.worker == name
            ],
        )
        for name in names
    ]


def settled(
    revisions: list[RevisionDeployment], start: Placing, workers: set[str] | list[str]
) -> Placing:
    """Place again and again, each time with everything that is placed ready."""
    placing = start
    for _ in range(4):
        reports = Reports(running(placing.places, *workers), [])
        placing = place(revisions, placing.places, reports)
    return placing


def counts(placing: Placing, model: str = "digits") -> Counter[str]:
    return Counter(each.worker for each in placing.places if each.model == model)


def duties(placing: Placing) -> Counter[str]:
    return Counter(each.duty for each in placing.places)


def differ_by_one_at_most(places: list[ReplicaPlacement], workers: set[str]) -> bool:
    spread = Counter(each.worker for each in places)
    found = [spread[name] for name in workers]
    return max(found) - min(found) <= 1


@given(workers=WORKERS, replicas=REPLICAS)
def test_replicas_are_spread_evenly_with_distinct_keys(workers: set[str], replicas: int) -> None:
    placing = place([revision(replicas=replicas)], (), Reports(running((), *workers), []))
    spread = counts(placing)
    assert spread.total() == replicas
    assert max(spread.values()) - min(spread[name] for name in workers) <= 1
    assert len({each.key for each in placing.places}) == replicas
    assert placing.unplaced == {}


@given(workers=WORKERS, replicas=REPLICAS, gone=st.integers(0, 7))
def test_a_worker_that_leaves_moves_only_its_own(
    workers: set[str], replicas: int, gone: int
) -> None:
    before = place([revision(replicas=replicas)], (), Reports(running((), *workers), []))
    left = workers - {f"w{gone}"}
    if not left:
        return
    after = settled([revision(replicas=replicas)], before, left)
    stayed = {each for each in before.places if each.worker in left}
    assert stayed <= set(after.places)
    assert len(after.places) == replicas
    assert max(counts(after).values()) - min(counts(after)[name] for name in left) <= 1


@given(workers=WORKERS, replicas=REPLICAS, joined=st.integers(0, 7))
def test_a_worker_that_joins_takes_just_its_share(
    workers: set[str], replicas: int, joined: int
) -> None:
    name = f"w{joined}"
    workers = workers - {name}
    if not workers:
        return
    before = place([revision(replicas=replicas)], (), Reports(running((), *workers), []))
    after = settled([revision(replicas=replicas)], before, [*workers, name])
    moved = set(after.places) - set(before.places)
    assert {each.worker for each in moved} <= {name}
    assert len(moved) == replicas // (len(workers) + 1)
    assert len(after.places) == replicas


@given(workers=WORKERS, replicas=REPLICAS, others=st.lists(REPLICAS, max_size=3))
def test_another_revision_moves_nothing(
    workers: set[str], replicas: int, others: list[int]
) -> None:
    own = revision(replicas=replicas)
    before = place([own], (), Reports(running((), *workers), []))
    more = [revision(f"m{n}", count, Phase.LOADING) for n, count in enumerate(others)]
    reports = Reports(running(before.places, *workers), [])
    after = place([*more, own], before.places, reports)
    assert set(before.places) <= set(after.places)
    assert len(after.places) == replicas + sum(others)


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    rooms=st.lists(st.integers(0, 100), min_size=1, max_size=4),
)
def test_memory_is_never_overbooked(sizes: list[int], rooms: list[int]) -> None:
    revisions = [
        revision(f"m{n}", replicas=2, phase=Phase.LOADING, memory=size * MIB)
        for n, size in enumerate(sizes)
    ]
    workers = [worker(f"w{n}", memory=room * MIB) for n, room in enumerate(rooms)]
    placing = place(revisions, (), Reports(workers, []))
    by_id = {each.revision: each for each in revisions}
    for each in workers:
        used = sum(
            by_id[p.revision].memory_bytes for p in placing.places if p.worker == each.worker
        )
        assert used <= each.memory_bytes
    for own in revisions:
        placed = sum(p.revision == own.revision for p in placing.places)
        assert (placed < 2) == (own.revision in placing.unplaced)


@given(
    steps=st.lists(
        st.tuples(
            st.sets(st.sampled_from(["w0", "w1", "w2", "w3"])),
            st.sets(st.sampled_from(["w0", "w1", "w2", "w3"])),
            st.integers(1, 5),
        ),
        max_size=6,
    ),
    streams=st.booleans(),
)
@example(  # the worker that calls were to move to has a job's place, until jobs have moved
    steps=[
        ({"w0"}, set(), 2),
        ({"w0", "w1", "w2", "w3"}, set(), 2),
        ({"w0", "w1", "w2", "w3"}, set(), 3),
    ],
    streams=True,
)
def test_placing_again_changes_nothing(
    steps: list[tuple[set[str], set[str], int]], streams: bool
) -> None:
    """Whatever workers come, go and fail: a placement of a placement is itself."""
    placing = Placing((), {})
    for present, failing, replicas in steps:
        states = dict.fromkeys(failing, "failed")
        reports = Reports(running(placing.places, *present, **states), [])
        own = [revision(replicas=replicas, job_replicas=6 - replicas, streams=streams)]
        once = place(own, placing.places, reports)
        assert place(own, once.places, reports) == once
        placing = once


def test_a_ready_replica_stays_until_its_substitute_is_ready_and_seen() -> None:
    own = [revision(replicas=1)]
    first = place(own, (), Reports([worker("w1")], []))
    (place_1,) = first.places
    (report,) = running(first.places, "w1")
    leaving = report.model_copy(update={"draining": True})
    both = place(own, first.places, Reports([leaving, worker("w2")], []))
    assert {each.worker for each in both.places} == {"w1", "w2"}
    ready = [leaving, *running(both.places, "w2")]
    blind = gateway(ready={place_1.revision: 1})
    assert place(own, both.places, Reports(ready, [blind])).places == both.places
    sees = gateway(ready={place_1.revision: 2})
    moved = place(own, both.places, Reports(ready, [sees]))
    assert {each.worker for each in moved.places} == {"w2"}


def test_a_worker_that_comes_back_keeps_its_replica() -> None:
    own = [revision(replicas=1)]
    first = place(own, (), Reports([worker("w1")], []))
    away = place(own, first.places, Reports([worker("w2")], []))
    assert {each.worker for each in away.places} == {"w1", "w2"}
    loading = running(away.places, "w1", "w2", w2="loading")
    back = place(own, away.places, Reports(loading, []))
    assert back.places == first.places


def test_devices_are_matched_and_shared_out() -> None:
    gpus = worker("w1", devices=("cpu", "cuda:0", "cuda:1"))
    two = place([revision(replicas=2)], (), Reports([gpus], []))
    assert {each.device for each in two.places} == {"cuda:0", "cuda:1"}
    cpu = place([revision(device="cpu")], (), Reports([gpus], []))
    assert [each.device for each in cpu.places] == ["cpu"]
    none = place([revision(device="cuda:1")], (), Reports([worker("w1")], []))
    (unplaced,) = none.unplaced.values()
    assert (unplaced.reason, unplaced.lasting) == ("no live worker has the device cuda:1", True)


def test_each_means_one_on_every_matching_worker() -> None:
    workers = [worker("w1"), worker("w2"), worker("w3", draining=True), worker("w4")]
    placing = place([revision(replicas="each")], (), Reports(workers, []))
    assert counts(placing) == {"w1": 1, "w2": 1, "w4": 1}


def test_draining_revisions_keep_their_places_and_get_none() -> None:
    own = revision(replicas=2, phase=Phase.DRAINING)
    assert place([own], (), Reports([worker()], [])).places == ()
    before = place([own.model_copy(update={"phase": Phase.SERVING})], (), Reports([worker()], []))
    assert place([own], before.places, Reports([], [])).places == before.places


def test_a_worker_that_could_not_load_is_passed_over() -> None:
    own = [revision(replicas=1)]
    first = place(own, (), Reports([worker("w1")], []))
    failed = running(first.places, "w1", w1="failed")
    assert place(own, first.places, Reports(failed, [])).places == first.places
    with_w2 = place(own, first.places, Reports([*failed, worker("w2")], []))
    assert {each.worker for each in with_w2.places} == {"w1", "w2"}


@given(workers=WORKERS, replicas=REPLICAS, job_replicas=REPLICAS)
def test_a_streaming_model_has_places_of_its_own_for_jobs(
    workers: set[str], replicas: int, job_replicas: int
) -> None:
    own = revision(replicas=replicas, job_replicas=job_replicas, streams=True)
    placing = place([own], (), Reports(running((), *workers), []))
    assert duties(placing) == {"calls": replicas, "jobs": job_replicas}
    assert asked(own, Reports(running((), *workers), [])) == replicas + job_replicas
    assert len({each.key for each in placing.places}) == replicas + job_replicas
    for duty in ("calls", "jobs"):
        places = [each for each in placing.places if each.duty == duty]
        assert differ_by_one_at_most(places, workers)


@pytest.mark.parametrize(
    ("jobs", "streams", "expected"),
    [
        ("shared", False, {"both": 2}),
        ("shared", True, {"calls": 2, "jobs": 3}),
        ("only", False, {"jobs": 2}),
        ("only", True, {"jobs": 2}),
        ("off", False, {"calls": 2}),
        ("off", True, {"calls": 2}),
    ],
)
def test_duties_follow_the_tag_and_the_model(
    jobs: JobsPolicy, streams: bool, expected: dict[str, int]
) -> None:
    own = revision(replicas=2, jobs=jobs, job_replicas=3, streams=streams)
    assert duties(place([own], (), Reports([worker()], []))) == expected


def test_jobs_go_where_the_revision_has_fewest_others() -> None:
    own = revision(streams=True)
    placing = place([own], (), Reports([worker("w1"), worker("w2")], []))
    assert counts(placing) == {"w1": 1, "w2": 1}


def test_one_on_each_worker_and_some_for_jobs() -> None:
    own = revision(replicas="each", job_replicas=2, streams=True)
    reports = Reports([worker("w1"), worker("w2"), worker("w3")], [])
    placing = place([own], (), reports)
    assert duties(placing) == {"calls": 3, "jobs": 2}
    assert asked(own, reports) == 5


@given(workers=WORKERS, replicas=REPLICAS, before=REPLICAS, after=REPLICAS)
def test_another_number_of_replicas_for_jobs_moves_no_other(
    workers: set[str], replicas: int, before: int, after: int
) -> None:
    old = revision(replicas=replicas, job_replicas=before, streams=True)
    new = revision(replicas=replicas, job_replicas=after, streams=True)
    assert old.revision == new.revision
    placing = place([old], (), Reports(running((), *workers), []))
    changed = settled([new], placing, workers)
    assert duties(changed) == {"calls": replicas, "jobs": after}
    fewer, more = sorted([set(placing.places), set(changed.places)], key=len)
    assert fewer <= more


@given(workers=WORKERS, replicas=REPLICAS, job_replicas=REPLICAS, gone=st.integers(0, 7))
def test_a_worker_that_leaves_moves_only_its_own_of_each_duty(
    workers: set[str], replicas: int, job_replicas: int, gone: int
) -> None:
    own = revision(replicas=replicas, job_replicas=job_replicas, streams=True)
    before = place([own], (), Reports(running((), *workers), []))
    left = workers - {f"w{gone}"}
    if not left:
        return
    after = settled([own], before, left)
    assert {each for each in before.places if each.worker in left} <= set(after.places)
    assert duties(after) == {"calls": replicas, "jobs": job_replicas}


def test_a_place_for_calls_waits_for_its_substitute_whatever_is_ready_for_jobs() -> None:
    own = [revision(streams=True)]
    first = place(own, (), Reports([worker("w1"), worker("w2")], []))
    (calls,) = [each for each in first.places if each.duty == "calls"]
    (jobs,) = [each for each in first.places if each.duty == "jobs"]
    workers = {each.worker: each for each in running(first.places, "w1", "w2")}
    workers[calls.worker] = workers[calls.worker].model_copy(update={"draining": True})
    moving = place(own, first.places, Reports([*workers.values(), worker("w3")], []))
    assert {calls, jobs} < set(moving.places)
    ready = {each.worker: each for each in running(moving.places, "w1", "w2", "w3")}
    ready[calls.worker] = ready[calls.worker].model_copy(update={"draining": True})
    # Two are seen, but which two? The one that leaves may be among them.
    blind = gateway(ready={calls.revision: 2})
    assert place(own, moving.places, Reports(ready.values(), [blind])).places == moving.places
    sees = gateway(ready={calls.revision: 3})
    moved = place(own, moving.places, Reports(ready.values(), [sees]))
    assert calls not in moved.places
    assert duties(moved) == {"calls": 1, "jobs": 1}


def test_too_little_memory_for_jobs_is_told() -> None:
    own = revision(memory=60 * MIB, streams=True)
    placing = place([own], (), Reports([worker("w1", memory=100 * MIB)], []))
    assert duties(placing) == {"calls": 1}
    assert "0 of 1 replicas for jobs fit" in placing.unplaced[own.revision].reason


def test_too_little_memory_names_what_holds_most_of_it() -> None:
    greedy = revision("greedy", replicas=20, memory=40 * MIB)
    small = revision("small", memory=50 * MIB)
    reports = Reports([worker("w1", memory=820 * MIB)], [])
    first = place([greedy], (), reports)
    placing = place([greedy, small], first.places, reports)
    reason = placing.unplaced[small.revision].reason
    assert reason.startswith("too little memory: 0 of 1 replicas fit")
    assert "(w1: 0.0 of 0.8 GiB free, 0.8 GiB held by greedy/1)" in reason


def test_rendezvous_is_stable() -> None:
    assert rendezvous("digits/1-0", "w1") == 12324622345694349787


def test_memory_of_gpus_is_shared_out_and_never_overbooked() -> None:
    node = worker("w1").model_copy(
        update={
            "devices": ("cpu", "cuda:0", "cuda:1"),
            "memory_bytes": 1000 * MIB,
            "device_memory_bytes": {"cuda:0": 250 * MIB, "cuda:1": 120 * MIB},
        }
    )
    wanted = revision(replicas=4, memory=100 * MIB)
    placing = place([wanted], (), Reports([node], []))
    assert Counter(each.device for each in placing.places) == {"cuda:0": 2, "cuda:1": 1}
    reason = placing.unplaced[wanted.revision].reason
    assert "3 of 4 replicas fit" in reason
    assert "cuda:0 0.0 of 0.2 GiB free" in reason

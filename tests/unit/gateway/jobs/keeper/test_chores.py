"""What is done for jobs, by what the store holds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.jobs.keeper.backlog import Sample
from penstock.gateway.jobs.keeper.chores import Chore, due, samples
from penstock.shared.contracts.routing import ModelRoute, VersionRoute
from penstock.shared.jobs.answers import ModelStats, StoreStats
from penstock.shared.jobs.record import FINISHED, JobState
from penstock.shared.jobs.totals import totals_of


def stats(**states: int) -> StoreStats:
    counts = {state: states.get(state, 0) for state in JobState}
    jobs = sum(counts.values())
    models = {"m": ModelStats(counts[JobState.QUEUED], 0, 0, 0)} if jobs else {}
    return StoreStats(jobs, 0, counts, models, {}, 0)


def test_without_jobs_nothing_is_done() -> None:
    assert due(stats(), 1e9, 5.0) == []


def test_totals_are_read_now_and_then() -> None:
    assert due(stats(succeeded=1), 4.9, 5.0) == []
    assert due(stats(succeeded=1), 5.0, 5.0) == [Chore.TOTALS]


@given(st.dictionaries(st.sampled_from(sorted(JobState)), st.integers(0, 3)))
def test_what_is_needed_is_done(states: dict[JobState, int]) -> None:
    chores = due(stats(**states), 0.0, 5.0)
    held = states.get(JobState.RUNNING, 0) + states.get(JobState.CANCELING, 0)
    assert (Chore.RECLAIM in chores) == (held > 0)
    assert (Chore.EXPIRE in chores) == (states.get(JobState.QUEUED, 0) > 0)


@given(st.dictionaries(st.sampled_from(sorted(FINISHED)), st.integers(0, 3)))
def test_finished_jobs_cause_no_writes(states: dict[JobState, int]) -> None:
    assert due(stats(**states), 0.0, 5.0) == []


def test_samples_count_the_replicas_that_take_jobs() -> None:
    held = stats(queued=3)
    versions = (
        VersionRoute(version="1", revision="r1"),
        VersionRoute(version="2", revision="r2", jobs="off"),
        VersionRoute(version="3", revision="r3", jobs="only"),
    )
    routes = {"m": ModelRoute(model="m", generation=1, versions=versions)}
    totals = {"m": totals_of({"in:running:3": "4", "in:running:ms": "2500"})}
    ready = {"r1": 2, "r2": 5, "r3": 1, "other": 9}
    seen = samples(held, totals, routes, ready)
    assert seen == {"m": Sample(waiting=3, in_flight=0, ended=4, run_s=2.5, replicas=3)}
    assert samples(held, totals, {}, ready)["m"].replicas == 0
    assert samples(held, {}, routes, ready) == {}

"""What is learned of how long the jobs that wait will take."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.jobs.keeper.backlog import Backlogs, Sample


def busy(seconds: int, per_second: float, replicas: int, waiting: int = 1000) -> Backlogs:
    """After so many seconds at full speed."""
    backlogs, ended = Backlogs(), 0
    for second in range(0, seconds + 1, 5):
        ended = round(second * per_second)
        sample = Sample(waiting, 4, ended, ended * 3.0, replicas)
        backlogs.observe({"m": sample}, float(second))
    return backlogs


def test_the_first_guess_is_the_running_time() -> None:
    sample = Sample(waiting=9, in_flight=1, ended=10, run_s=20.0, replicas=2)
    assert Backlogs().observe({"m": sample}, 0.0) == {"m": pytest.approx(10 * 2.0 / 2)}


def test_it_is_learned_what_replicas_get_through() -> None:
    backlogs = busy(600, per_second=20.0, replicas=4)  # in batches: 0.2 s each, not 3 s
    sample = Sample(waiting=1000, in_flight=0, ended=12_000, run_s=36_000.0, replicas=4)
    [seconds] = backlogs.observe({"m": sample}, 600.0).values()
    assert seconds == pytest.approx(1000 / 20, rel=0.01)


def test_half_the_replicas_take_twice_as_long() -> None:
    backlogs = busy(600, per_second=20.0, replicas=4)
    sample = Sample(waiting=1000, in_flight=0, ended=12_000, run_s=36_000.0, replicas=2)
    [seconds] = backlogs.observe({"m": sample}, 600.0).values()
    assert seconds == pytest.approx(1000 / 10, rel=0.01)


def test_nothing_is_learned_of_idle_times_and_gaps() -> None:
    backlogs = busy(600, per_second=20.0, replicas=4)
    idle = Sample(waiting=0, in_flight=0, ended=12_000, run_s=36_000.0, replicas=4)
    for second in range(605, 6_000, 5):
        assert backlogs.observe({"m": idle}, float(second)) == {"m": 0.0}
    after = Sample(waiting=20, in_flight=0, ended=12_000, run_s=36_000.0, replicas=4)
    [seconds] = backlogs.observe({"m": after}, 9_000.0).values()
    assert seconds == pytest.approx(1.0, rel=0.01)


def test_a_first_job_that_takes_long_is_noticed() -> None:
    backlogs = Backlogs()
    samples = [
        backlogs.observe({"m": Sample(1, 1, 0, 0.0, 1)}, float(second))["m"]
        for second in range(0, 100, 5)
    ]
    assert samples[0] == 0.0
    assert samples == sorted(samples)
    assert samples[-1] > 100


def test_a_model_without_jobs_is_forgotten() -> None:
    backlogs = Backlogs()
    backlogs.observe({"m": Sample(1, 1, 0, 0.0, 1)}, 0.0)
    assert backlogs.observe({}, 1.0) == {}


COUNTS = st.integers(0, 10**6)
SAMPLES = st.builds(
    Sample,
    waiting=COUNTS,
    in_flight=COUNTS,
    ended=COUNTS,
    run_s=st.floats(0, 1e9),
    replicas=st.integers(0, 100),
)


@given(st.lists(st.tuples(SAMPLES, st.floats(0, 1e4)), max_size=20))
def test_estimates_are_finite_and_none_without_jobs(steps: list[tuple[Sample, float]]) -> None:
    backlogs, now = Backlogs(), 0.0
    for sample, passed_s in steps:
        now += passed_s
        seconds = backlogs.observe({"m": sample}, now)["m"]
        assert math.isfinite(seconds)
        assert seconds >= 0
        assert sample.waiting + sample.in_flight or seconds == 0

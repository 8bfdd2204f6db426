"""Ids of jobs sort by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.jobs.ids import JobIds, new_job_id


@given(st.lists(st.floats(0, 1e10), min_size=1, max_size=50))
def test_ids_of_one_process_only_grow(times: list[float]) -> None:
    clock = iter(times)
    ids = JobIds(lambda: next(clock))
    made = [ids.next() for _ in times]
    assert made == sorted(set(made))
    assert {len(each) for each in made} == {32}


def test_ids_of_two_processes_sort_by_the_millisecond() -> None:
    assert JobIds(lambda: 1.001).next() < JobIds(lambda: 1.002).next()
    assert new_job_id() < new_job_id()

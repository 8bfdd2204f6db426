"""The table of a job's states, and records to fields and back."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.jobs.record import (
    FINISHED,
    HELD,
    RETRYABLE,
    TRANSITIONS,
    Content,
    JobState,
    NewJob,
    fields_of,
    record_of,
)

STATES = st.sampled_from(list(JobState))
TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
AMOUNTS = st.integers(0, 1 << 50)

CONTENTS = st.builds(Content, TEXTS, AMOUNTS, TEXTS)
IDEMPOTENCY: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}), st.fixed_dictionaries({"idempotency": st.just("a1"), "idempotency_ms": AMOUNTS})
)
JOBS = st.builds(
    lambda idempotency, **fields: NewJob(**fields, **idempotency),
    IDEMPOTENCY.filter(lambda fields: fields.get("idempotency_ms") != 0),
    id=TEXTS,
    model=TEXTS,
    version=TEXTS,
    revision=TEXTS,
    pin=TEXTS,
    priority=st.integers(1, 9),
    max_attempts=st.integers(1, 9),
    timeout_ms=AMOUNTS,
    queue_ttl_ms=AMOUNTS,
    result_ttl_ms=AMOUNTS,
    dead_ttl_ms=AMOUNTS,
    webhook=TEXTS,
    webhook_events=st.lists(STATES, unique=True).map(tuple),
)


def reachable(state: JobState) -> set[JobState]:
    found: set[JobState] = set()
    ahead = {state}
    while ahead:
        found |= ahead
        ahead = {following for each in ahead for following in TRANSITIONS[each]} - found
    return found


def test_every_state_is_in_the_table_and_follows_from_the_first() -> None:
    assert set(TRANSITIONS) == set(JobState) == reachable(JobState.QUEUED)
    assert {JobState.QUEUED} | HELD | FINISHED == set(JobState)


@given(STATES)
def test_every_job_can_finish(state: JobState) -> None:
    assert reachable(state) & FINISHED


@given(st.lists(st.integers(0, 9), max_size=30))
def test_a_life_finishes_once_unless_it_is_retried(choices: list[int]) -> None:
    life = [JobState.QUEUED]
    for choice in choices:
        if possible := sorted(TRANSITIONS[life[-1]]):
            life.append(possible[choice % len(possible)])
    for state, following in pairwise(life):
        assert state not in FINISHED or following is JobState.QUEUED
        assert state is not JobState.SUCCEEDED
        if following in (JobState.SUCCEEDED, JobState.CANCELING):
            assert state is JobState.RUNNING  # a result has a holder
        if state is JobState.CANCELING:
            assert following is JobState.CANCELED


def test_what_did_not_succeed_may_start_over() -> None:
    assert FINISHED - {JobState.SUCCEEDED} == RETRYABLE


@given(JOBS, CONTENTS)
def test_what_is_submitted_comes_back(job: NewJob, payload: Content) -> None:
    fields = {name: str(value) for name, value in fields_of(job, payload).items()}
    record = record_of(fields | {"state": "queued"})
    assert (record.job, record.payload) == (job, payload)
    assert (record.result, record.progress, record.dead, record.token) == (None, None, False, 0)

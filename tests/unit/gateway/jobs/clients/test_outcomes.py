"""What a client is told of a job's end."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.jobs.clients.outcomes import check_succeeded, eta_s, event_before, failure_of
from penstock.gateway.jobs.clients.submission import accepted
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.jobs.answers import Submitted
from penstock.shared.jobs.record import FINISHED, Content, JobState, NewJob

QUEUED = accepted(
    NewJob("id", "m", "1", "r"), Content("text/plain", 1), Submitted("id", True, 1000, 0)
).record


@pytest.mark.parametrize("state", list(JobState))
def test_only_success_has_a_result(state: JobState) -> None:
    found = replace(QUEUED, state=state, error_code="model_error", error_message="it broke")
    if state is JobState.SUCCEEDED:
        check_succeeded(found)
        return
    with pytest.raises(PenstockError) as raised:
        check_succeeded(found)
    if state is JobState.FAILED:
        assert (raised.value.code, raised.value.message) == (ErrorCode.MODEL_ERROR, "it broke")
    elif state in FINISHED:
        assert raised.value.code is ErrorCode.JOB_GONE
    else:
        assert raised.value.code is ErrorCode.JOB_STATE


def test_a_code_of_another_release_is_internal() -> None:
    found = replace(QUEUED, error_code="no_such_code", attempts=2)
    error = failure_of(found)
    assert (error.code, error.attempts) == (ErrorCode.INTERNAL, 2)
    assert error.message


@given(st.integers(1, 2**48), st.integers(0, 2**60))
def test_nothing_lies_between_an_event_and_the_one_before(ms: int, sequence: int) -> None:
    before_ms, before = map(int, event_before(f"{ms}-{sequence}").split("-"))
    assert (before_ms, before) < (ms, sequence)
    assert (before_ms, before + 1) == (ms, sequence) or (before_ms + 1, sequence) == (ms, 0)


def test_what_is_left() -> None:
    running = replace(QUEUED, state=JobState.RUNNING, started_ms=1000, progress=0.25)
    assert eta_s(running, 3000) == 6.0
    assert eta_s(running, 0) == 0.0  # clocks differ
    assert eta_s(replace(running, progress=0.0), 3000) is None
    assert eta_s(replace(running, progress=None), 3000) is None
    assert eta_s(replace(running, state=JobState.QUEUED), 3000) is None

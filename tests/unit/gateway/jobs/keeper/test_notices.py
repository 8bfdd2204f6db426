"""What webhooks say of jobs, and what becomes of attempts."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.jobs.keeper.notices import notice, report_of
from penstock.gateway.webhooks.retries import Delivered, DeliveryOutcome, GaveUp, Retry
from penstock.shared.jobs.answers import WebhookDue
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.record import JobState, record_of

NOON_MS = 1_800_000_000_250


def due(state: JobState, tries: int = 0, entered_ms: int = NOON_MS, **changes: Any) -> WebhookDue:
    fields = {
        "id": new_job_id(),
        "model": "m",
        "version": "3",
        "revision": "m/3-abc",
        "priority": "5",
        "max_attempts": "3",
        "result_ttl_ms": "1000",
        "dead_ttl_ms": "1000",
        "state": state.value,
        "attempts": "2",
        "created_ms": str(NOON_MS),
        "error_code": "model_error",
        "error_message": "no",
    }
    return WebhookDue(record_of(fields | changes), state, entered_ms, tries)


def test_it_says_what_became_of_the_job() -> None:
    failed = due(JobState.FAILED, finished_ms=str(NOON_MS + 1000))
    said = orjson.loads(notice(failed).body)
    assert said == {
        "type": "job.failed",
        "timestamp": "2027-01-15T08:00:00.250Z",
        "data": {
            "id": failed.record.id,
            "url": f"/v2/jobs/{failed.record.id}",
            "model": "m",
            "version": "3",
            "state": "failed",
            "attempts": 2,
            "created_at": "2027-01-15T08:00:00.250Z",
            "finished_at": "2027-01-15T08:00:01.250Z",
            "error": {"code": "model_error", "message": "no"},
        },
    }


def test_an_earlier_attempts_error_is_not_that_of_a_job_that_runs() -> None:
    assert "error" not in orjson.loads(notice(due(JobState.RUNNING)).body)["data"]


@given(st.sampled_from(sorted(JobState)), st.integers(0, 9), st.integers(1, 2**43))
def test_an_event_keeps_its_id_from_attempt_to_attempt(
    state: JobState, tries: int, later_ms: int
) -> None:
    first = due(state)
    again = WebhookDue(first.record, state, first.entered_ms, tries)
    assert notice(again) == notice(first)
    anew = WebhookDue(first.record, state, first.entered_ms + later_ms, 0)
    if first.entered_ms + later_ms < 2**45:
        assert notice(anew).event_id != notice(first).event_id


@pytest.mark.parametrize(
    ("outcome", "tries", "wait", "reason"),
    [
        (Delivered(204), 3, "", ""),
        (Retry(2.5, 4, "answered 500"), 3, 2500, ""),
        (Retry(2.5, 3, "no room"), 2, 2500, ""),
        (GaveUp("gone"), 3, "", "gone"),
    ],
)
def test_the_store_is_told_what_follows(
    outcome: DeliveryOutcome, tries: int, wait: Any, reason: str
) -> None:
    event = due(JobState.SUCCEEDED, tries=2)
    call = report_of(event, outcome)
    assert call.arguments == (event.record.id, "succeeded", NOON_MS, tries, wait, reason)

"""Webhooks of jobs: what they say, and what their outcome means for the store; pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from penstock.gateway.webhooks.event import WebhookEvent, webhook_event
from penstock.gateway.webhooks.retries import Delivered, DeliveryOutcome, GaveUp, Retry
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import WebhookDue
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.record import JobRecord, JobState


def notice(due: WebhookDue) -> WebhookEvent:
    """The event that tells of a job's state.

    Its id is the same at each attempt, and another one if the job comes to that state again. What
    it says of the job is as of now: by an attempt hours later, more may have happened.
    """
    job_id, entered_ms = due.record.id, due.entered_ms
    event_id = f"{job_id}-{due.state}-{entered_ms}"
    return webhook_event(event_id, f"job.{due.state}", entered_ms / 1000, _data(due))


def _data(due: WebhookDue) -> dict[str, Any]:
    record = due.record
    data: dict[str, Any] = {
        "id": record.id,
        "url": f"/v2/jobs/{record.id}",
        "model": record.job.model,
        "version": record.job.version,
        "state": due.state.value,
        "attempts": record.attempts,
    }
    times = {
        "created": record.created_ms,
        "started": record.started_ms,
        "finished": record.finished_ms,
        "result_expires": record.collect_ms,
    }
    data |= {f"{name}_at": _iso(ms) for name, ms in times.items() if ms}
    if due.state is JobState.FAILED or due.state is JobState.EXPIRED:
        data["error"] = _error(record)
    return data


def _iso(ms: int) -> str:
    when = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    return when.replace("+00:00", "Z")


def _error(record: JobRecord) -> dict[str, str]:
    return {"code": record.error_code, "message": record.error_message}


def report_of(due: WebhookDue, outcome: DeliveryOutcome) -> Call[None]:
    """What the store is to know of an attempt's outcome."""
    match outcome:
        case Delivered():
            return calls.webhook_told(due, due.tries + 1)
        case Retry(after_s, attempt, _):
            return calls.webhook_told(due, attempt - 1, again_in_ms=round(after_s * 1000))
        case GaveUp(reason):
            return calls.webhook_told(due, due.tries + 1, gave_up=reason)

"""Jobs and their events as JSON; pure.

Times are ISO 8601 in UTC, with milliseconds, by the store's clock; null: not yet.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import orjson

from penstock.gateway.http.tensors.json_tensors import flat_values
from penstock.gateway.jobs.clients.outcomes import eta_s
from penstock.shared.contracts.errors import PenstockError, WireError
from penstock.shared.jobs.answers import JobEvent, JobView, Progress, Undelivered
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.payload import RESULT_TYPE, unpack_result
from penstock.shared.jobs.record import Content, JobRecord, JobState
from penstock.shared.wire.tensors import Tensor


def job_document(
    view: JobView,
    now_ms: float,
    partial: dict[str, Any] | None = None,
    durability: Durability | None = None,
) -> dict[str, Any]:
    """A job.

    Args:
        view: the job and its place in the queue.
        now_ms: milliseconds since 1970, for what is left.
        partial: its last output, as `output_document` has it.
        durability: what it is worth that this was answered; None: nothing was changed by it.
    """
    document = {**_summary(view.record, now_ms), "place": view.place, "partial": partial}
    return document if durability is None else document | {"durability": durability.value}


def page_document(found: list[JobRecord], next_cursor: str | None, now_ms: float) -> dict[str, Any]:
    """A page of the listing."""
    return {"jobs": [_summary(each, now_ms) for each in found], "next_cursor": next_cursor}


def undelivered_document(found: list[Undelivered], next_cursor: str | None) -> dict[str, Any]:
    """A page of the webhooks that were given up."""
    return {"webhooks": [_undelivered(each) for each in found], "next_cursor": next_cursor}


def _undelivered(found: Undelivered) -> dict[str, Any]:
    return {
        "id": found.id,
        "job": found.job_id,
        "model": found.model,
        "state": found.state,
        "attempts": found.tries,
        "reason": found.reason,
        "given_up_at": time_text(found.at_ms),
    }


def _summary(found: JobRecord, now_ms: float) -> dict[str, Any]:
    job = found.job
    error = {"code": found.error_code, "message": found.error_message}
    return {
        "id": found.id,
        "model": job.model,
        "version": job.version,
        "pinned": bool(job.pin),
        "state": found.state,
        "priority": job.priority,
        "attempts": found.attempts,
        "max_attempts": job.max_attempts,
        "created_at": time_text(found.created_ms),
        "started_at": time_text(found.started_ms),
        "finished_at": time_text(found.finished_ms),
        "expires_at": time_text(found.expires_ms) if found.state is JobState.QUEUED else None,
        "progress": _progress(found, now_ms),
        "error": error if found.error_code else None,
        "result_bytes": None if found.result is None else found.result.size_bytes,
        "result_expires_at": time_text(found.collect_ms),
        "dead": found.dead,
    }


def time_text(ms: int) -> str | None:
    """Milliseconds since 1970 as text; None for 0."""
    if not ms:
        return None
    text = datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def _progress(found: JobRecord, now_ms: float) -> dict[str, Any] | None:
    if found.progress is None:
        return None
    left_s = eta_s(found, now_ms)
    return {
        "fraction": found.progress,
        "message": found.progress_message,
        "estimated": found.progress_estimated,
        "eta_seconds": None if left_s is None else round(left_s, 3),
    }


def output_document(content: Content, body: bytes | None) -> dict[str, Any]:
    """What a stream yielded: as tensors, JSON, text or base64; without it if it is too large.

    Args:
        content: what it is.
        body: its bytes; None: not to be shown.
    """
    document: dict[str, Any] = {"media_type": content.media_type, "size_bytes": content.size_bytes}
    if body is None:
        return document
    kind = content.media_type.partition(";")[0]
    try:
        if kind == RESULT_TYPE:
            outputs = unpack_result(body).final.outputs
            return document | {"outputs": [_tensor_document(tensor) for tensor in outputs]}
        if kind == "application/json":
            return document | {"json": orjson.loads(body)}
        if kind.startswith("text/"):
            return document | {"text": body.decode()}
    except (ValueError, WireError):
        pass  # it is not what it says
    return document | {"base64": base64.b64encode(body).decode()}


def _tensor_document(tensor: Tensor) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": tensor.shape,
    }
    try:
        return shown | {"data": flat_values(tensor)}
    except PenstockError:  # BYTES that are no text
        return shown | {"base64": base64.b64encode(tensor.data).decode()}


def as_json(document: Any) -> bytes:
    """A document as it is sent."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


# Server-sent events -------------------------------------------------------------------------------

KEEPALIVE = b":\n\n"


def event_text(kind: str, document: Any, event_id: str = "") -> bytes:
    """One server-sent event; without an id, it is nothing to resume after."""
    front = f"id: {event_id}\nevent: {kind}\n" if event_id else f"event: {kind}\n"
    return front.encode() + b"data: " + as_json(document) + b"\n\n"


def job_event_text(event: JobEvent, body: bytes | None) -> bytes:
    """Something that happened to a job; `body` is its output's bytes, if that is to be shown."""
    at = {"at": time_text(event.at_ms)}
    if event.state is not None:
        return event_text("state", {**at, "state": event.state}, event.id)
    if event.progress is not None:
        return event_text("progress", {**at, **_told(event.progress)}, event.id)
    assert event.output is not None
    return event_text("output", {**at, **output_document(event.output, body)}, event.id)


def _told(progress: Progress) -> dict[str, Any]:
    return {
        "fraction": progress.fraction,
        "message": progress.message,
        "estimated": progress.estimated,
    }

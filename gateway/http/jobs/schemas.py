"""Shapes of jobs, for the interactive documentation only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from penstock.gateway.http.jobs.options import (
    IDEMPOTENCY_HEADER,
    OPTIONS,
    PRIORITY_HEADER,
    header_of,
)
from penstock.gateway.http.schemas import INFER_OPENAPI
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.record import JobState


class JobProgress(BaseModel):
    """How far an execution is."""

    fraction: float = Field(ge=0, le=1)
    message: str
    estimated: bool = Field(description="Whether it comes from the clock, not from the model.")
    eta_seconds: float | None = Field(description="What is left, if it goes on as it did.")


class JobError(BaseModel):
    """What the last attempt that went wrong ended with."""

    code: str = Field(examples=["model_error"])
    message: str


class JobSummary(BaseModel):
    """A job, as listings have it. Times are ISO 8601 in UTC."""

    id: str
    model: str
    version: str
    pinned: bool = Field(description="Whether the client insisted on the version.")
    state: JobState
    priority: int
    attempts: int
    max_attempts: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None = Field(description="When it expires if it still waits then.")
    progress: JobProgress | None
    error: JobError | None
    result_bytes: int | None
    result_expires_at: str | None
    dead: bool = Field(description="Whether it is a dead letter.")


class JobOutput(BaseModel):
    """What a stream yielded: one of the last four, unless it is too large to be shown."""

    media_type: str
    size_bytes: int
    outputs: list[dict[str, Any]] | None = None
    data: Any | None = Field(None, alias="json")
    text: str | None = None
    base64: str | None = None


class JobBody(JobSummary):
    """A job."""

    place: int | None = Field(description="How many of its queue are before it.")
    partial: JobOutput | None = Field(description="Its last output.")
    durability: Durability | None = Field(
        None,
        description="In answers to a submit, a cancel and a retry: what the job store makes of "
        "them. always, asked: they outlive a crash of it; everysec: the last two seconds may not; "
        "none: they do not; unknown: it does not tell.",
    )


class JobPage(BaseModel):
    """A part of the listing."""

    jobs: list[JobSummary]
    next_cursor: str | None


class UndeliveredWebhook(BaseModel):
    """A state of a job that its webhook was not told."""

    id: str
    job: str
    model: str
    state: JobState
    attempts: int = Field(description="How often it was tried.")
    reason: str = Field(examples=["answered 404"])
    given_up_at: str


class UndeliveredPage(BaseModel):
    """A part of the list of webhooks that were given up."""

    webhooks: list[UndeliveredWebhook]
    next_cursor: str | None


JOB_ACCEPTED: dict[str, Any] = {
    "model": JobBody,
    "description": "It is accepted; `Location` says where it is, `Retry-After` when to look.",
}


def _header(name: str, kind: str, description: str) -> dict[str, Any]:
    return _parameter("header", name, kind, description)


def _query(name: str, kind: str, description: str) -> dict[str, Any]:
    return _parameter("query", name, kind, description)


def _parameter(place: str, name: str, kind: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": False,
        "description": description,
        "schema": {"type": kind},
    }


_OPTIONS_SAID = (
    ("number", "Longest wait in the queue; then the job expires."),
    ("number", "How long the finished job is kept."),
    ("string", "URL that is told how the job goes."),
    ("string", "States it is told, with commas between them; else those that finish the job."),
)

SUBMIT_OPENAPI: dict[str, Any] = {
    **INFER_OPENAPI,
    "parameters": [
        *INFER_OPENAPI["parameters"],
        _header(PRIORITY_HEADER, "integer", "1 (first) to 9 (last); 0: 5."),
        _header(IDEMPOTENCY_HEADER, "string", "The same key and input: the same job."),
        *(
            _header(header_of(name), kind, f"{said} Also a parameter: `{name}`.")
            for name, (kind, said) in zip(OPTIONS, _OPTIONS_SAID, strict=True)
        ),
    ],
}
"""The submit route's request: that of an inference, and the options of a job."""

WAIT_OPENAPI: dict[str, Any] = {
    "parameters": [_query("wait", "number", "Seconds to wait until it is finished.")]
}

EVENTS_OPENAPI: dict[str, Any] = {
    "parameters": [_header("Last-Event-ID", "string", "Go on after this event.")]
}

_PAGE = [
    _query("limit", "integer", "Most entries in the answer."),
    _query("cursor", "string", "`next_cursor` of the page before."),
]

UNDELIVERED_OPENAPI: dict[str, Any] = {"parameters": _PAGE}

LIST_OPENAPI: dict[str, Any] = {
    "parameters": [
        _query("model", "string", "Only jobs of this model."),
        _query("state", "string", "Only jobs in this state."),
        _query("dead", "boolean", "Only dead letters."),
        *_PAGE,
    ]
}

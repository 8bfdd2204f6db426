"""What a client submits, and the job that becomes of it; pure and synchronous."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import JobView, Submitted
from penstock.shared.jobs.payload import JobInput, input_pieces
from penstock.shared.jobs.record import (
    DEFAULT_PRIORITY,
    Content,
    JobRecord,
    JobState,
    NewJob,
)
from penstock.shared.wire.messages import PRIORITY_DEFAULT
from penstock.shared.wire.records import record


@record
class JobOptions:
    """What a client wants of a job beside its result.

    Attributes:
        priority: 1 (first) to 9 (last).
        timeout_ms: longest execution; 0: the model's own limit.
        queue_ttl_ms: longest wait for its execution; 0: no limit.
        result_ttl_ms: how long the finished job is kept; 0: the gateway's default.
        webhook: URL, or "".
        webhook_events: states that are told to it.
        idempotency_key: the client's name for this submission, or "".
        tenant: whose key that is.
    """

    priority: int = DEFAULT_PRIORITY
    timeout_ms: int = 0
    queue_ttl_ms: int = 0
    result_ttl_ms: int = 0
    webhook: str = ""
    webhook_events: tuple[JobState, ...] = ()
    idempotency_key: str = ""
    tenant: str = ""


@record
class Submission:
    """A job that is to be.

    Attributes:
        model: the registered model's name.
        pin: the version that the client insists on, or None.
        version, revision: what the traffic policy chose.
        input: what is to be executed; it fits the version's interface.
        options: the rest.
    """

    model: str
    pin: str | None
    version: str
    revision: str
    input: JobInput
    options: JobOptions


def new_job(job_id: str, submission: Submission, settings: JobSettings) -> NewJob:
    """The job to be stored."""
    options = submission.options
    idempotency = ""
    if options.idempotency_key:
        scope = f"{submission.model}\n{options.tenant}"
        idempotency = calls.idempotency_hash(scope, options.idempotency_key)
    return NewJob(
        id=job_id,
        model=submission.model,
        version=submission.version,
        revision=submission.revision,
        pin=submission.pin or "",
        priority=options.priority,
        max_attempts=settings.jobs_attempts_max,
        timeout_ms=options.timeout_ms,
        queue_ttl_ms=options.queue_ttl_ms,
        result_ttl_ms=options.result_ttl_ms or whole_ms(settings.jobs_result_ttl_s),
        dead_ttl_ms=whole_ms(settings.jobs_dead_ttl_s),
        idempotency=idempotency,
        idempotency_ms=whole_ms(settings.jobs_idempotency_s),
        webhook=options.webhook,
        webhook_events=options.webhook_events,
    )


def whole_ms(seconds: float) -> int:
    """Seconds as milliseconds, at least one: 0 would mean that there is no limit."""
    return max(1, round(seconds * 1000))


def digest_of(submission: Submission) -> str:
    """What two submissions with one idempotency key must have in common.

    That is the input and the pin: tensors, outputs that are asked for, and parameters of the model,
    however they were worded. Options and the request's own id may differ from try to try.
    """
    request = replace(submission.input.request, traceparent="", priority=PRIORITY_DEFAULT)
    digest = hashlib.sha256()
    for piece in (*input_pieces(JobInput("", request)), b"\n", (submission.pin or "").encode()):
        digest.update(piece)
    return digest.hexdigest()


def accepted(job: NewJob, payload: Content, submitted: Submitted) -> JobView:
    """A job as it was when it was accepted, without asking the store for it."""
    created_ms = submitted.created_ms
    found = JobRecord(
        job=job,
        state=JobState.QUEUED,
        attempts=0,
        deaths=0,
        created_ms=created_ms,
        queued_ms=created_ms,
        started_ms=0,
        finished_ms=0,
        expires_ms=created_ms + job.queue_ttl_ms if job.queue_ttl_ms else 0,
        collect_ms=0,
        progress=None,
        progress_message="",
        progress_estimated=False,
        partial="",
        error_code="",
        error_message="",
        payload=payload,
        result=None,
        holder="",
        token=0,
        lease_expires_ms=0,
        dead=False,
    )
    return JobView(found, submitted.place)

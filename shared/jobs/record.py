"""A job's record, and the states of its life.

    queued ----> running ----> succeeded
      |  ^        |  |  ^
      |  |        |  |  +-- (a lease that ended without a result leads back to queued,
      |  +--------+  |       until there were `max_attempts`)
      |              +-----> failed
      |              +-----> canceling -> canceled
      +--------------------> canceled | expired | failed (its pinned version is gone)

    failed | canceled | expired ----> queued   (retried by hand, while its input is kept)

`TRANSITIONS` is the one table of it: the store's scripts get theirs from here. A running or
canceling job has a holder, with a lease that ends unless it is prolonged and a token that is higher
than any before; only the holder with the current token changes the job. A job that is canceled
while it runs stays with its holder, whose result is not kept.

Records are made by the store. What a client asks for is a `NewJob`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.wire.records import record


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELING = "canceling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset(
        {JobState.RUNNING, JobState.CANCELED, JobState.EXPIRED, JobState.FAILED}
    ),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.CANCELING, JobState.SUCCEEDED, JobState.FAILED}
    ),
    JobState.CANCELING: frozenset({JobState.CANCELED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELED: frozenset({JobState.QUEUED}),
    JobState.EXPIRED: frozenset({JobState.QUEUED}),
}
"""From each state, the states that may follow."""

HELD = frozenset({JobState.RUNNING, JobState.CANCELING})
"""States in which a job has a holder and a lease."""

FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED, JobState.EXPIRED})
"""States that a job leaves only if somebody asks for it."""

RETRYABLE = frozenset(state for state in FINISHED if JobState.QUEUED in TRANSITIONS[state])
"""States from which a job may start over, if its input is still there."""

PRIORITIES = range(1, 10)
"""1 is the most urgent."""

DEFAULT_PRIORITY = 5
DEFAULT_MAX_ATTEMPTS = 3
DEFAULT_RESULT_TTL_MS = 24 * 3_600_000
DEFAULT_DEAD_TTL_MS = 7 * 24 * 3_600_000

DEFAULT_IDEMPOTENCY_MS = 24 * 3_600_000
"""How long an idempotency key stands for its job after the job has finished."""

SUSPECT_DEATHS = 2
"""Replicas that may die of a job; the second death is its own doing, since it ran alone by then."""


@record
class Content:
    """What a payload or a result is, without its bytes.

    Attributes:
        media_type: as its sender named it.
        size_bytes: its length.
        blob: where it lies, or "" if the store itself keeps it.
    """

    media_type: str
    size_bytes: int
    blob: str = ""


@record
class NewJob:
    """A job to be submitted.

    Attributes:
        id: made by the caller (`penstock.shared.jobs.ids.new_job_id`), once for all times it is
        sent. model: the registered model's name. version: which version the traffic policy chose.
        revision: the version's revision, whose queue the job waits in. pin: the version that the
        client insisted on, or "". priority: 1 (first) to 9. max_attempts: leases that the job may
        have had when it fails for good. timeout_ms: longest execution, or 0 for the model's own
        limit. queue_ttl_ms: longest wait for its execution, or 0 for no limit. result_ttl_ms: how
        long the finished job is kept. dead_ttl_ms: how long it is kept as a dead letter.
        idempotency: hash of an idempotency key and its scope, or "". idempotency_ms: how long the
        key stands for the job after the job has finished. webhook: URL, or "". webhook_events:
        states that are told to it.
    """

    id: str
    model: str
    version: str
    revision: str
    pin: str = ""
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    timeout_ms: int = 0
    queue_ttl_ms: int = 0
    result_ttl_ms: int = DEFAULT_RESULT_TTL_MS
    dead_ttl_ms: int = DEFAULT_DEAD_TTL_MS
    idempotency: str = ""
    idempotency_ms: int = DEFAULT_IDEMPOTENCY_MS
    webhook: str = ""
    webhook_events: tuple[JobState, ...] = ()


@record
class JobRecord:
    """A job as the store knows it. Times are milliseconds of the server's wall clock, 0: not yet.

    Attributes:
        job: what was submitted; version and revision are where it waits or runs now. state: where
        it stands. attempts: leases it had that count. deaths: replicas that were seen to die with
        it; a job with one is a suspect and runs alone. created_ms: when it was submitted.
        queued_ms: when it began to wait; a retry begins anew, a lost lease does not. started_ms:
        when its last lease began. finished_ms: when it finished. expires_ms: when it expires if it
        still waits. collect_ms: when a finished job is collected. progress: fraction done, 0 to 1,
        or None. progress_message: what the model says of it. progress_estimated: whether the
        fraction comes from the clock, not from the model. partial: the event with the last output,
        or "". error_code: of the last attempt that went wrong, a
        `penstock.shared.contracts.errors.ErrorCode`. error_message: for the client. payload: None
        once the job needs it no more. That of a canceled or expired job stays for a
            retry, unless what is submitted later needs its room.
        error_cause: what was raised in that attempt, for the operator; empty: nothing was.
        payload: None once the job needs it no more.
        result: None if there is none.
        holder: who runs it, or "".
        token: of the last lease; each lease has a higher one.
        lease_expires_ms: when the lease ends.
        dead: whether it is a dead letter.
        moved_from: the version that it was submitted for, if another has taken it over.
        retries: how often it was told to start over.
    """

    job: NewJob
    state: JobState
    attempts: int
    deaths: int
    created_ms: int
    queued_ms: int
    started_ms: int
    finished_ms: int
    expires_ms: int
    collect_ms: int
    progress: float | None
    progress_message: str
    progress_estimated: bool
    partial: str
    error_code: str
    error_message: str
    payload: Content | None
    result: Content | None
    holder: ReplicaId
    token: int
    lease_expires_ms: int
    dead: bool
    moved_from: str = ""
    retries: int = 0
    error_cause: str = ""

    @property
    def id(self) -> str:
        """The job's id."""
        return self.job.id


def fields_of(job: NewJob, payload: Content) -> dict[str, str | int]:
    """The fields that the store keeps of a submitted job; what is empty is left out."""
    fields: dict[str, str | int] = {
        "id": job.id,
        "model": job.model,
        "version": job.version,
        "revision": job.revision,
        "priority": job.priority,
        "max_attempts": job.max_attempts,
        "result_ttl_ms": job.result_ttl_ms,
        "dead_ttl_ms": job.dead_ttl_ms,
        "payload_type": payload.media_type,
        "payload_size": payload.size_bytes,
    }
    optional: dict[str, str | int] = {
        "payload_blob": payload.blob,
        "pin": job.pin,
        "timeout_ms": job.timeout_ms,
        "queue_ttl_ms": job.queue_ttl_ms,
        "idempotency": job.idempotency,
        "idempotency_ms": job.idempotency_ms if job.idempotency else 0,
        "webhook": job.webhook,
        "webhook_events": ",".join(job.webhook_events),
    }
    return fields | {name: value for name, value in optional.items() if value}


def record_of(fields: Mapping[str, str]) -> JobRecord:
    """The record that the store keeps as these fields.

    Raises:
        KeyError, ValueError: if they are no record.
    """

    def integer(name: str) -> int:
        return int(fields.get(name, 0))

    progress = fields.get("progress")
    return JobRecord(
        job=_new_job_of(fields),
        state=JobState(fields["state"]),
        attempts=integer("attempts"),
        deaths=integer("deaths"),
        created_ms=integer("created_ms"),
        queued_ms=integer("queued_ms"),
        started_ms=integer("started_ms"),
        finished_ms=integer("finished_ms"),
        expires_ms=integer("expires_ms"),
        collect_ms=integer("collect_ms"),
        progress=None if progress is None else float(progress),
        progress_message=fields.get("progress_message", ""),
        progress_estimated=fields.get("progress_estimated") == "1",
        partial=fields.get("partial", ""),
        error_code=fields.get("error_code", ""),
        error_message=fields.get("error_message", ""),
        payload=_content_of(fields, "payload"),
        result=_content_of(fields, "result"),
        holder=fields.get("holder", ""),
        token=integer("token"),
        lease_expires_ms=integer("lease_expires_ms"),
        dead="dead" in fields,
        moved_from=fields.get("moved_from", ""),
        retries=integer("retries"),
        error_cause=fields.get("error_cause", ""),
    )


def _new_job_of(fields: Mapping[str, str]) -> NewJob:
    events = fields.get("webhook_events", "")
    return NewJob(
        id=fields["id"],
        model=fields["model"],
        version=fields["version"],
        revision=fields["revision"],
        pin=fields.get("pin", ""),
        priority=int(fields["priority"]),
        max_attempts=int(fields["max_attempts"]),
        timeout_ms=int(fields.get("timeout_ms", 0)),
        queue_ttl_ms=int(fields.get("queue_ttl_ms", 0)),
        result_ttl_ms=int(fields["result_ttl_ms"]),
        dead_ttl_ms=int(fields["dead_ttl_ms"]),
        idempotency=fields.get("idempotency", ""),
        idempotency_ms=int(fields.get("idempotency_ms", DEFAULT_IDEMPOTENCY_MS)),
        webhook=fields.get("webhook", ""),
        webhook_events=tuple(JobState(event) for event in events.split(",") if event),
    )


def _content_of(fields: Mapping[str, str], kind: str) -> Content | None:
    if f"{kind}_size" not in fields:
        return None
    return Content(
        media_type=fields[f"{kind}_type"],
        size_bytes=int(fields[f"{kind}_size"]),
        blob=fields.get(f"{kind}_blob", ""),
    )

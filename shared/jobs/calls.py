"""What can be asked of the job store: each call as data, with how its answer is read.

`store.JobStore.run(calls.lease(...))` and `blocking_store.BlockingJobStore.run(calls.lease(...))`
carry them out. Every call is one script, so it happens whole or not at all, and may be sent again:
the second time changes nothing. docs/jobs.md says what each guarantees.

A call may raise, when it is run: `StateStoreError` (not reached; it may have happened),
`StoreFullError` (submit, commit), `IdempotencyMismatchError` (submit).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.jobs import answers
from penstock.shared.jobs.answers import (
    Beat,
    Collected,
    JobEvent,
    JobView,
    JobWithBytes,
    LeasedJobs,
    Moved,
    Progress,
    StoreStats,
    Submitted,
    Undelivered,
    WebhookDue,
)
from penstock.shared.jobs.record import (
    SUSPECT_DEATHS,
    Content,
    JobRecord,
    JobState,
    NewJob,
    fields_of,
)
from penstock.shared.jobs.totals import ModelTotals
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer

Answer = TypeVar("Answer")
Argument: TypeAlias = str | bytes | int | float

INLINE_BYTES_MAX = 256 * 1024
"""Largest payload or result that the store keeps itself; it is copied whenever a job is leased."""

OUTPUT_BYTES_MAX = 64 * 1024
"""Largest output of a stream that the store keeps itself."""

SMALL_BYTES = 1024
"""Results and outputs up to this are kept even by a store that is full: a record has as much."""

MESSAGE_CHARS_MAX = 2_000
"""Longest error or progress message that is kept; the rest is cut off."""

NOTHING_ELSE: Mapping[str, str] = {}

STEP_JOBS = 200
"""Jobs that one sweep touches: some ten milliseconds in which the server does nothing else."""


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """One script with its arguments.

    Attributes:
        script: its name, a file in `shared/jobs/scripts`.
        arguments: after the clock's offset.
        parse: from the server's answer; may raise a `PenstockError`.
        durable: whether its caller relies on it once it is answered.
    """

    script: str
    arguments: tuple[Argument, ...]
    parse: Callable[[Any], Answer]
    durable: bool = False


@record
class StoreLimits:
    """How much the store may hold.

    Attributes:
        jobs_max: of all states; beyond it a submit is refused.
        bytes_max: payloads, results and outputs that the store keeps itself; beyond it a submit is
            refused, and results and outputs that are not small have to be blobs.
    """

    jobs_max: int = 100_000
    bytes_max: int = 256 * 1024 * 1024


DEFAULT_LIMITS = StoreLimits()


# For clients --------------------------------------------------------------------------------------


def idempotency_hash(scope: str, key: str) -> str:
    """What the store knows an idempotency key by; `scope` is whose key it is."""
    return hashlib.sha256(f"{len(scope)}:{scope}{key}".encode()).hexdigest()[:32]


def submit(
    job: NewJob,
    payload: Content,
    body: Buffer,
    *,
    digest: str = "",
    limits: StoreLimits = DEFAULT_LIMITS,
) -> Call[Submitted]:
    """Accept a job, unless its idempotency key stands for another one.

    Args:
        job: with an id of its own; the same id is the same job.
        payload: what the input is.
        body: its bytes; empty if it is a blob.
        digest: of the input, to compare with that of the key's job.
        limits: beyond which it is refused.
    """
    kept = _kept(payload, body, INLINE_BYTES_MAX)
    fields = [part for pair in fields_of(job, payload).items() for part in pair]
    key = (job.id, job.idempotency, digest)
    bounds = (limits.jobs_max, limits.bytes_max, job.queue_ttl_ms)
    return Call("submit", (*key, *bounds, kept, *fields), answers.submitted_of, durable=True)


def get(job_id: str) -> Call[JobView | None]:
    """A job and its place; None if there is none of this id."""
    return Call("get", (job_id,), answers.view_of)


def result(job_id: str) -> Call[JobWithBytes | None]:
    """A job and its result, if it has one; None if there is no such job."""
    return Call("result", (job_id,), answers.with_bytes_of)


def events(job_id: str, after: str = "", most: int = 100) -> Call[list[JobEvent]]:
    """Events of a job after the one of id `after`, in their order; none for an unknown job."""
    return Call("events", (job_id, after, most), answers.events_of)


def jobs(
    model: str = "", state: JobState | None = None, before: str = "", most: int = 100
) -> Call[list[JobRecord]]:
    """Newest first, those older than the id `before`: go on with the last one's id."""
    return Call("list", (model, state or "", before, most), answers.records_of)


def dead_letters(model: str = "", before: str = "", most: int = 100) -> Call[list[JobRecord]]:
    """Failed jobs that ran out of attempts or killed their replicas, newest first."""
    return Call("list", (model, "dead", before, most), answers.records_of)


def cancel(job_id: str) -> Call[JobState | None]:
    """A queued job is canceled, a running one canceling. The state it has now; None if unknown."""
    return Call("cancel", (job_id,), answers.state_of, durable=True)


def forget(job_id: str) -> Call[JobState | None]:
    """Erase a finished job; None: it is gone. The state of one that is not finished."""
    return Call("forget", (job_id,), answers.state_of, durable=True)


def retry(job: JobRecord) -> Call[JobState | None]:
    """Queue a job anew that failed, was canceled or expired, if this record is of its last end.

    The state it has now; None: unknown. It may raise a `PenstockError`, JOB_GONE: its input is not
    kept any more.
    """
    return Call("retry", (job.id, job.retries), answers.retried_of, durable=True)


# For holders --------------------------------------------------------------------------------------


def lease(
    model: str,
    revision: str,
    holder: ReplicaId,
    request: str,
    *,
    most: int,
    lease_ms: int,
    idle: bool,
) -> Call[LeasedJobs]:
    """Take up to `most` jobs of a queue, the most urgent and oldest first.

    Args:
        model: of the queue.
        revision: of the queue.
        holder: one life of one replica, never used again.
        request: this request's id: sent again it gets the same jobs, for a minute.
        most: how many, up to `STEP_JOBS`.
        lease_ms: how long without a heartbeat.
        idle: whether the holder runs nothing, so that a suspect may run there.
    """
    bounds = (min(most, STEP_JOBS), lease_ms, int(idle))
    return Call("lease", (model, revision, holder, request, *bounds), answers.leased_of)


def heartbeat(
    job_id: str,
    token: int,
    beat: int,
    lease_ms: int,
    progress: Progress | None = None,
    outputs: Sequence[tuple[Content, Buffer]] = (),
    *,
    bytes_max: int = DEFAULT_LIMITS.bytes_max,
) -> Call[Beat]:
    """Prolong a lease, and tell how far the execution is.

    Args:
        job_id: of the job.
        token: of the lease.
        beat: 1, 2, 3, ... within the lease; one that was counted changes nothing.
        lease_ms: from now.
        progress: None leaves it as it is.
        outputs: what the model yielded since the last beat, with their bytes or as blobs.
        bytes_max: of `StoreLimits`.
    """
    told: tuple[Argument, ...] = ("", "", "")
    if progress is not None:
        message = progress.message[:MESSAGE_CHARS_MAX]
        told = (progress.fraction, message, int(progress.estimated))
    parts: list[Argument] = []
    for output, body in outputs:
        kept = _kept(output, body, OUTPUT_BYTES_MAX)
        parts += [output.media_type, output.size_bytes, output.blob, kept]
    arguments = (job_id, token, beat, lease_ms, *told, bytes_max, *parts)
    return Call("heartbeat", arguments, answers.beat_of)


def commit(
    job_id: str,
    token: int,
    result: Content,
    body: Buffer,
    *,
    bytes_max: int = DEFAULT_LIMITS.bytes_max,
) -> Call[JobState | None]:
    """Finish a job. SUCCEEDED; CANCELED, and the result is not kept; None: the lease is lost.

    Where the store has no room for the body (`StoreFullError`), the job is still held, and its
    result may be committed as a blob. `bytes_max` is that of `StoreLimits`.
    """
    kept = _kept(result, body, INLINE_BYTES_MAX)
    content = (result.media_type, result.size_bytes, result.blob, kept)
    arguments = (job_id, token, *content, bytes_max)
    return Call("commit", arguments, answers.committed_of, durable=True)


def fail(
    job_id: str, token: int, code: str, message: str, *, retryable: bool, cause: str = ""
) -> Call[JobState | None]:
    """End an attempt with an error. The job's new state; None: the lease is lost.

    Args:
        message: for the client.
        cause: for the operator.
    """
    arguments = (job_id, token, code, message, int(retryable), cause)
    return Call("fail", arguments, answers.state_of, durable=True)


def release(job_id: str, token: int) -> Call[JobState | None]:
    """Give a job back as if it had not been leased. Its new state; None: the lease is lost."""
    return Call("release", (job_id, token), answers.state_of)


# For those who watch over holders -----------------------------------------------------------------


def lose(
    holder: ReplicaId, begun: Collection[str] | None = None
) -> Call[list[tuple[str, JobState]]]:
    """A holder was seen to die: its jobs return, or end. Their states now.

    Args:
        holder: whose jobs.
        begun: ids of jobs that it had begun, which return as suspects; of others it does not
            matter which are here. None: nobody knows, so all that it held are suspects.
    """
    known = begun is not None
    arguments: tuple[Argument, ...] = (holder, SUSPECT_DEATHS, int(known), *sorted(begun or ()))
    return Call("lose", arguments, answers.states_of)


def reclaim(
    *, gap_ms: int, grace_ms: int, most: int = STEP_JOBS
) -> Call[list[tuple[str, JobState]]]:
    """Take jobs from holders whose leases have ended. Their states now.

    Args:
        gap_ms: longer without any reclaim means that the server may have been away itself.
        grace_ms: how long no lease ends after that.
        most: jobs in this step.
    """
    return Call("reclaim", (most, gap_ms, grace_ms), answers.states_of)


def expire(most: int = STEP_JOBS) -> Call[list[str]]:
    """Expire jobs that waited too long. Their ids."""
    return Call("expire", (most,), answers.texts_of)


def collect(most: int = STEP_JOBS, blobs: int = STEP_JOBS) -> Call[Collected]:
    """Erase finished jobs past their time. Some blobs to delete, again and again until `swept`."""
    return Call("collect", (most, blobs), answers.collected_of)


def swept(blobs: Sequence[str]) -> Call[None]:
    """Say that blobs were deleted."""
    return Call("swept", tuple(blobs), answers.nothing_of)


def move_version(
    model: str,
    from_revision: str,
    to_revision: str,
    to_version: str,
    served: Mapping[str, str] = NOTHING_ELSE,
    most: int = STEP_JOBS,
) -> Call[Moved]:
    """One step of moving what waits for one revision to others; repeat while any are left.

    Jobs keep their places. Those whose version is still served, as another revision, go there; of
    the rest, those that are pinned fail, and all others go to `to_revision`.

    Args:
        model: of the queue.
        from_revision: of the queue; served no more.
        to_revision: of its successor.
        to_version: of its successor.
        served: revisions of all versions that are served, by version.
        most: jobs in this step.
    """
    others = [part for pair in sorted(served.items()) for part in pair]
    steps: tuple[Argument, ...] = (model, from_revision, to_revision, to_version, most, *others)
    return Call("move", steps, answers.moved_of)


def stats() -> Call[StoreStats]:
    """What the store holds."""
    return Call("stats", (), answers.stats_of)


def totals() -> Call[dict[str, ModelTotals]]:
    """What was counted, of the models that have jobs."""
    return Call("totals", (), answers.model_totals_of)


def webhooks_due(hold_ms: int, most: int = STEP_JOBS) -> Call[list[WebhookDue]]:
    """What webhooks are to be told now; nobody else is given it for `hold_ms`."""
    return Call("webhooks", (most, hold_ms), answers.webhooks_due_of)


def webhook_told(
    due: WebhookDue, tries: int, *, again_in_ms: int | None = None, gave_up: str = ""
) -> Call[None]:
    """A webhook was told; or was not, and is to be tried again later, or given up.

    Args:
        due: as it was given.
        tries: calls of it so far.
        again_in_ms: when it is tried again, from now; None: never.
        gave_up: why it is given up, for the operator.
    """
    wait: Argument = "" if again_in_ms is None else again_in_ms
    reason = gave_up[:MESSAGE_CHARS_MAX]
    arguments = (due.record.id, due.state, due.entered_ms, tries, wait, reason)
    return Call("told", arguments, answers.nothing_of)


def undelivered_webhooks(before: str = "", most: int = 100) -> Call[list[Undelivered]]:
    """Webhooks that were given up, newest first; go on with the last one's id."""
    return Call("undelivered", (before, most), answers.undelivered_of)


def _kept(content: Content, body: Buffer, bytes_max: int) -> bytes:
    """The bytes that the store is to keep."""
    if content.blob:
        assert not body, "what is a blob has its bytes there"
        return b""
    if len(body) != content.size_bytes or len(body) > bytes_max:
        raise ValueError(f"{len(body)} bytes: not {content.size_bytes}, or more than {bytes_max}")
    return bytes(body)

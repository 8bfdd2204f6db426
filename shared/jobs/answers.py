"""What the job store answers, and how that is read from what the server sends.

Readers raise KeyError, ValueError, IndexError or TypeError for what no script of ours answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from penstock.shared.contracts.errors import ErrorCode, PenstockError, StoreFullError
from penstock.shared.jobs.record import Content, JobRecord, JobState, record_of
from penstock.shared.jobs.totals import ModelTotals, totals_of
from penstock.shared.wire.records import record


class IdempotencyMismatchError(PenstockError):
    """An idempotency key was used before, for something else."""

    def __init__(self, job_id: str) -> None:
        message = f"the idempotency key was used with another payload, for job {job_id}"
        super().__init__(ErrorCode.IDEMPOTENCY_MISMATCH, message)
        self.job_id = job_id


@record
class Submitted:
    """A submitted job.

    Attributes:
        id: the job's, or that of the one that the idempotency key stands for.
        created: whether it is the job that was sent, now or the first time it was.
        created_ms: when, on the server's clock; 0 if the job has been forgotten meanwhile.
        place: how many of its queue are before it; None if it does not wait.
    """

    id: str
    created: bool
    created_ms: int
    place: int | None


@record
class JobView:
    """A job and its place in the queue (None: it does not wait)."""

    record: JobRecord
    place: int | None


@record
class JobWithBytes:
    """A job with its payload or result; None if a blob holds that, or nothing."""

    record: JobRecord
    body: bytes | None


@record
class LeasedJobs:
    """What a request for leases was given.

    Attributes:
        jobs: with their payloads; one whose `deaths` are not 0 must run alone, and is all there is.
        suspects_waiting: how many were passed over since the holder was not idle.
    """

    jobs: Sequence[JobWithBytes]
    suspects_waiting: int


class Beat(StrEnum):
    """What a holder learns from a heartbeat."""

    CONTINUE = "continue"
    CANCEL = "cancel"
    LOST = "lost"
    FULL = "full"
    """Go on; but there was no room for outputs that are not small: they have to be blobs."""


@record
class Progress:
    """How far an execution is: a fraction from 0 to 1, and words."""

    fraction: float
    message: str = ""
    estimated: bool = False


@record
class JobEvent:
    """Something that happened to a job.

    Attributes:
        id: grows from event to event of one job; read on after it.
        at_ms: when.
        state: the state that the job entered, or None.
        progress: how far it was, or None; older ones vanish as newer ones come.
        output: what a stream yielded, or None.
        body: the output's bytes, or None if a blob holds them.
    """

    id: str
    at_ms: int
    state: JobState | None = None
    progress: Progress | None = None
    output: Content | None = None
    body: bytes | None = None


@record
class Moved:
    """How a step of a move went: jobs that were moved, that failed, that are left in the queue."""

    moved: int
    failed: int
    left: int


@record
class Collected:
    """Finished jobs that were erased, and blobs to delete, also of those erased before."""

    erased: int
    blobs: Sequence[str]


@record
class ModelStats:
    """Jobs of one model by state; `dead` are dead letters."""

    queued: int
    running: int
    canceling: int
    dead: int


@record
class QueueStats:
    """A queue that holds something: how many jobs, and how long the oldest has waited."""

    waiting: int
    oldest_age_ms: int


@record
class StoreStats:
    """What the store holds.

    Attributes:
        jobs: records, of all states.
        bytes: of payloads, results and outputs that the store keeps itself.
        states: records by state.
        models: by model.
        queues: by model and revision.
        garbage: blobs that wait to be deleted.
        webhooks: states that wait to be told.
        undelivered: webhooks that were given up, of which the last ones are kept.
    """

    jobs: int
    bytes: int
    states: Mapping[JobState, int]
    models: Mapping[str, ModelStats]
    queues: Mapping[tuple[str, str], QueueStats]
    garbage: int
    webhooks: int = 0
    undelivered: int = 0


@record
class WebhookDue:
    """A state to be told to a job's webhook.

    Attributes:
        record: the job as it is now.
        state: to be told; it may have passed.
        entered_ms: when it began, which tells it from the same state at another time.
        tries: how often that was tried before.
    """

    record: JobRecord
    state: JobState
    entered_ms: int
    tries: int


@record
class Undelivered:
    """A webhook that was given up.

    Attributes:
        id: grows with time; older ones are listed before it.
        job_id, model, state: what was to be told.
        tries: how often it was.
        reason: why it was given up.
        at_ms: when.
    """

    id: str
    job_id: str
    model: str
    state: JobState
    tries: int
    reason: str
    at_ms: int


# Reading ----------------------------------------------------------------------------------------


def _fields(flat: Sequence[bytes]) -> dict[str, str]:
    return {flat[at].decode(): flat[at + 1].decode() for at in range(0, len(flat), 2)}


def records_of(raw: Any) -> list[JobRecord]:
    """Records, in their order."""
    return [record_of(_fields(flat)) for flat in raw]


def texts_of(raw: Any) -> list[str]:
    """Texts, in their order."""
    return [each.decode() for each in raw]


def state_of(raw: bytes) -> JobState | None:
    """A state, or None for a job that is gone or a lease that is lost."""
    return None if raw in (b"lost", b"gone") else JobState(raw.decode())


def retried_of(raw: bytes) -> JobState | None:
    """A state, or None for a job that is gone.

    Raises:
        PenstockError: JOB_GONE, if the job's input is not kept any more.
    """
    if raw == b"no_input":
        raise PenstockError(ErrorCode.JOB_GONE, "the job's input is not kept any more")
    return state_of(raw)


def committed_of(raw: bytes) -> JobState | None:
    """What became of a commit; None for a lease that is lost.

    Raises:
        StoreFullError: if there is no room for the result.
    """
    if raw == b"full":
        raise StoreFullError("the job store has no room for the result")
    return state_of(raw)


def states_of(raw: Any) -> list[tuple[str, JobState]]:
    """Ids with states."""
    pairs = zip(raw[::2], raw[1::2], strict=True)
    return [(job_id.decode(), JobState(state.decode())) for job_id, state in pairs]


def _place(raw: int) -> int | None:
    return raw if raw >= 0 else None


def submitted_of(raw: Any) -> Submitted:
    """What became of a submit.

    Raises:
        StoreFullError, IdempotencyMismatchError: if there is no job now.
    """
    status, job_id = raw[0].decode(), raw[1].decode()
    if status == "full":
        raise StoreFullError("the job store holds as much as it may")
    if status == "no_memory":
        raise StoreFullError("the job store is out of memory")
    if status == "mismatch":
        raise IdempotencyMismatchError(job_id)
    return Submitted(job_id, status == "created", raw[2], _place(raw[3]))


def view_of(raw: Any) -> JobView | None:
    """A job and its place."""
    return JobView(record_of(_fields(raw[0])), _place(raw[1])) if raw[0] else None


def with_bytes_of(raw: Any) -> JobWithBytes | None:
    """A job and its bytes."""
    return JobWithBytes(record_of(_fields(raw[0])), raw[1]) if raw[0] else None


def leased_of(raw: Any) -> LeasedJobs:
    """Leases."""
    return LeasedJobs(
        [JobWithBytes(record_of(_fields(flat)), body) for flat, body in raw[1:]], raw[0]
    )


def moved_of(raw: Any) -> Moved:
    """A step of a move."""
    return Moved(*raw)


def collected_of(raw: Any) -> Collected:
    """What was collected."""
    return Collected(raw[0], texts_of(raw[1]))


def beat_of(raw: bytes) -> Beat:
    """What a heartbeat told."""
    return Beat(raw.decode())


def nothing_of(_: Any) -> None:
    """Nothing that a caller needs."""


def events_of(raw: Any) -> list[JobEvent]:
    """Events, in their order."""
    return [_event(each) for each in raw]


def _event(raw: Any) -> JobEvent:
    fields: dict[bytes, bytes] = dict(zip(raw[1][::2], raw[1][1::2], strict=True))
    event_id, at_ms, kind = raw[0].decode(), int(fields[b"at"]), fields[b"kind"]
    if kind == b"state":
        return JobEvent(event_id, at_ms, state=JobState(fields[b"state"].decode()))
    if kind == b"progress":
        message, estimated = fields[b"message"].decode(), fields[b"estimated"] == b"1"
        progress = Progress(float(fields[b"progress"]), message, estimated)
        return JobEvent(event_id, at_ms, progress=progress)
    blob = fields.get(b"blob", b"").decode()
    output = Content(fields[b"type"].decode(), int(fields[b"size"]), blob)
    return JobEvent(event_id, at_ms, output=output, body=fields.get(b"body"))


def stats_of(raw: Any) -> StoreStats:
    """What the store holds."""
    counts, models, queues = _fields(raw[0]), raw[1], raw[2]
    return StoreStats(
        jobs=int(counts.get("jobs", 0)),
        bytes=int(counts.get("bytes", 0)),
        states={state: int(counts.get(state, 0)) for state in JobState},
        models={
            models[at].decode(): ModelStats(*models[at + 1 : at + 5])
            for at in range(0, len(models), 5)
        },
        queues={
            _queue(queues[at]): QueueStats(*queues[at + 1 : at + 3])
            for at in range(0, len(queues), 3)
        },
        garbage=raw[3],
        webhooks=raw[4],
        undelivered=raw[5],
    )


def model_totals_of(raw: Any) -> dict[str, ModelTotals]:
    """Totals by model."""
    pairs = zip(raw[::2], raw[1::2], strict=True)
    return {model.decode(): totals_of(_fields(flat)) for model, flat in pairs}


def _queue(name: bytes) -> tuple[str, str]:
    model, _, revision = name.decode().partition("/")
    return model, revision


def webhooks_due_of(raw: Any) -> list[WebhookDue]:
    """What is to be told."""
    return [
        WebhookDue(record_of(_fields(each[3])), JobState(each[0].decode()), each[1], each[2])
        for each in raw
    ]


def undelivered_of(raw: Any) -> list[Undelivered]:
    """Webhooks that were given up."""
    return [_undelivered(each[0].decode(), _fields(each[1])) for each in raw]


def _undelivered(entry_id: str, fields: Mapping[str, str]) -> Undelivered:
    return Undelivered(
        id=entry_id,
        job_id=fields["job"],
        model=fields["model"],
        state=JobState(fields["state"]),
        tries=int(fields["tries"]),
        reason=fields["reason"],
        at_ms=int(fields["at"]),
    )

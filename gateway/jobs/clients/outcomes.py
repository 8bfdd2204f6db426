"""From a job's record to what a client is told of its end; pure and synchronous."""

from __future__ import annotations

from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.jobs.record import FINISHED, JobRecord, JobState
from penstock.shared.wire.messages import Final

SEQUENCE_MAX = 2**64 - 1


def check_succeeded(found: JobRecord) -> None:
    """Refuse to give the result of a job that has none.

    Raises:
        PenstockError: JOB_STATE while it is unfinished; JOB_GONE if it was canceled or expired;
            what an inference would have answered if it failed.
    """
    if found.state is JobState.SUCCEEDED:
        return
    if found.state is JobState.FAILED:
        raise failure_of(found)
    if found.state in FINISHED:
        raise PenstockError(
            ErrorCode.JOB_GONE, f"job {found.id} has no result: it is {found.state}"
        )
    raise PenstockError(
        ErrorCode.JOB_STATE, f"job {found.id} has no result yet: it is {found.state}"
    )


def failure_of(found: JobRecord) -> PenstockError:
    """What a failed job failed with, as an inference would have told it."""
    known = found.error_code in list(ErrorCode)
    code = ErrorCode(found.error_code) if known else ErrorCode.INTERNAL
    error = PenstockError(code, found.error_message or f"job {found.id} failed")
    error.attempts = found.attempts
    return error


def answer_of(found: JobRecord, final: Final) -> InferenceAnswer:
    """What a job came to, as an inference would have told it."""
    return InferenceAnswer(
        model=found.job.model,
        version=found.job.version,
        outputs=final.outputs,
        queue_s=final.queue_us / 1e6,
        infer_s=final.infer_us / 1e6,
        attempts=found.attempts,
        batch_rows=final.batch_rows,
    )


def event_before(event_id: str) -> str:
    """The highest id that an event before this one may have; ids are `<ms>-<sequence>`."""
    ms, _, sequence = event_id.partition("-")
    if int(sequence) > 0:
        return f"{ms}-{int(sequence) - 1}"
    return f"{int(ms) - 1}-{SEQUENCE_MAX}"


def eta_s(found: JobRecord, now_ms: float) -> float | None:
    """Seconds until a running job is done, if it goes on as it did; None if that is not known."""
    if found.state is not JobState.RUNNING or not found.progress or not found.started_ms:
        return None
    elapsed_s = max(0.0, (now_ms - found.started_ms) / 1000)
    return elapsed_s * (1 - found.progress) / found.progress

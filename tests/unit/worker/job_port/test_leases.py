"""What a replica owes the store for a job, from the lease to its end."""

from __future__ import annotations

import pytest

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.jobs.answers import Beat, JobWithBytes, Progress
from penstock.shared.jobs.calls import DEFAULT_LIMITS, SMALL_BYTES, Call
from penstock.shared.jobs.payload import unpack_result
from penstock.shared.jobs.record import Content, JobRecord, JobState, NewJob
from penstock.shared.wire.messages import Failure, Final, Nack, NackReason
from penstock.worker.job_port.leases import ESTIMATE_MAX, OUTPUT_GAP_S, Leases

LEASE_S, HEARTBEAT_S = 15.0, 3.0
TEXT = Content("text/plain", 2)


def record(job_id: str = "j", token: int = 4, timeout_ms: int = 0) -> JobRecord:
    new = NewJob(id=job_id, model="m", version="1", revision="r", timeout_ms=timeout_ms)
    return JobRecord(
        job=new,
        state=JobState.RUNNING,
        attempts=1,
        deaths=0,
        created_ms=0,
        queued_ms=0,
        started_ms=0,
        finished_ms=0,
        expires_ms=0,
        collect_ms=0,
        progress=None,
        progress_message="",
        progress_estimated=False,
        partial="",
        error_code="",
        error_message="",
        payload=None,
        result=None,
        holder="h",
        token=token,
        lease_expires_ms=0,
        dead=False,
    )


def one_lease() -> tuple[Leases, int]:
    leases = Leases(LEASE_S, HEARTBEAT_S)
    (number,) = leases.add([JobWithBytes(record(), b"")], 100.0)
    return leases, number


def beat(leases: Leases, number: int, now: float) -> tuple[object, ...]:
    """The number of the beat, then what it tells."""
    call: Call[Beat] = leases.beat(number, now)
    assert call.arguments[:2] == ("j", 4)
    assert call.arguments[3] == LEASE_S * 1000
    assert call.arguments[7] == DEFAULT_LIMITS.bytes_max
    return (call.arguments[2], *call.arguments[4:7], *call.arguments[8:])


def test_a_lease_is_kept_by_beats_that_are_numbered() -> None:
    leases, number = one_lease()
    assert leases.next_due() == 100.0 + HEARTBEAT_S
    assert leases.due(102.9) == []
    assert leases.due(103.0) == [number]
    assert beat(leases, number, 103.0) == (1, "", "", "")
    assert not leases.beaten(number, Beat.CONTINUE, 103.1)
    assert leases.due(104.0) == []
    assert beat(leases, number, 106.1) == (2, "", "", "")


def test_a_beat_that_was_not_answered_is_the_same_when_it_is_sent_again() -> None:
    leases, number = one_lease()
    leases.model_said(number, Progress(0.5, "half"), 101.0)
    first = beat(leases, number, 101.0)
    assert first == (1, 0.5, "half", 0)
    leases.model_said(number, (TEXT, b"ab"), 101.5)
    assert beat(leases, number, 102.0) == first
    leases.beaten(number, Beat.CONTINUE, 102.0)
    assert beat(leases, number, 103.0) == (2, "", "", "", "text/plain", 2, "", b"ab")


def test_what_a_model_tells_leaves_soon_but_not_too_often() -> None:
    leases, number = one_lease()
    leases.model_said(number, (TEXT, b"ab"), 101.0)
    assert leases.due(101.0) == [number]
    beat(leases, number, 101.0)
    assert len(leases.last_beats(number, 101.0)) == 1
    leases.beaten(number, Beat.CONTINUE, 101.0)
    assert leases.last_beats(number, 101.0) == []
    leases.model_said(number, (TEXT, b"cd"), 101.05)
    assert leases.next_due() == 101.0 + OUTPUT_GAP_S


def test_whether_jobs_are_still_wanted_is_asked_soon_but_not_too_often() -> None:
    leases, number = one_lease()
    leases.beat_soon(101.0)
    assert leases.due(101.0) == [number]
    assert beat(leases, number, 101.0) == (1, "", "", "")
    leases.beaten(number, Beat.CONTINUE, 101.0)
    leases.beat_soon(101.05)
    assert leases.next_due() == 101.0 + OUTPUT_GAP_S
    leases.beat_soon(110.0)
    assert leases.next_due() == 101.0 + OUTPUT_GAP_S


def test_progress_is_estimated_where_the_model_tells_none() -> None:
    leases, number = one_lease()
    assert beat(leases, number, 101.0)[1:] == ("", "", "")
    leases.beaten(number, Beat.CONTINUE, 101.0)
    leases.began([number, 99], 40.0, 100.0)
    assert beat(leases, number, 110.0)[1:] == (0.25, "", 1)
    leases.beaten(number, Beat.CONTINUE, 110.0)
    assert beat(leases, number, 1000.0)[1:] == (ESTIMATE_MAX, "", 1)


@pytest.mark.parametrize("answer", [Beat.CANCEL, Beat.LOST])
def test_a_job_may_be_wanted_no_more(answer: Beat) -> None:
    leases, number = one_lease()
    beat(leases, number, 103.0)
    assert leases.beaten(number, answer, 103.0)
    leases.drop(number)
    assert not leases.beaten(number, answer, 103.0)
    assert leases.next_due() is None


def test_a_lease_ends_with_a_result_an_error_or_neither() -> None:
    leases, number = one_lease()
    leases[number].client_id = "mine"
    result = unpack_result(leases.result(number, Final(number, infer_us=7)))
    assert (result.client_id, result.final.infer_us, result.final.attempt_id) == ("mine", 7, 0)
    assert leases.commit(number, TEXT, b"ab").arguments[:2] == ("j", 4)
    assert leases.release(number).arguments == ("j", 4)
    fatal = leases.fail(number, Failure(ErrorCode.MODEL_ERROR, "it raised", "KeyError"))
    assert fatal.arguments == ("j", 4, "model_error", "it raised", 0, "KeyError")
    again = leases.fail(number, Failure(ErrorCode.OUT_OF_MEMORY, "too large"))
    assert again.arguments[-2:] == (1, "")


def test_a_job_that_outlasts_its_timeout_has_failed_whatever_it_comes_to() -> None:
    leases = Leases(LEASE_S, HEARTBEAT_S)
    (number,) = leases.add([JobWithBytes(record(timeout_ms=500), b"")], 100.0)
    answer = Final(number)
    assert leases.judged(answer, 200.0) is answer  # it waits, for as long as it must
    leases.began([number], 0.0, 101.0)
    assert leases.next_due() == 101.5
    assert leases.overdue(101.4) == []
    assert leases.judged(answer, 101.4) is answer
    (late,) = leases.overdue(101.5)
    assert leases.judged(answer, 101.5) is late
    raised = Final(number, failure=Failure(ErrorCode.OUT_OF_MEMORY, "its batch was too large"))
    assert leases.judged(raised, 101.5) is late
    assert isinstance(late, Final)
    assert late.failure is not None
    assert late.failure.code is ErrorCode.DEADLINE_EXCEEDED
    assert leases.fail(number, late.failure).arguments[-2] == 0
    assert leases.judged(Nack(number, NackReason.DRAINING), 102.0) == Nack(
        number, NackReason.DRAINING
    )
    leases[number].ending = True
    assert (leases.overdue(200.0), leases.next_due()) == ([], 100.0 + HEARTBEAT_S)


def test_what_a_full_store_did_not_keep_may_be_told_as_blobs_until_the_lease_ends() -> None:
    leases, number = one_lease()
    bodies = [b"x" * SMALL_BYTES, b"x" * (SMALL_BYTES + 1)]
    outputs = [(Content("t", len(body)), body) for body in bodies]
    for output in outputs:
        leases.model_said(number, output, 101.0)
    beat(leases, number, 101.0)
    assert leases.not_kept(number) == outputs[1:]
    assert not leases.beaten(number, Beat.FULL, 101.0)  # it is wanted all the same
    assert leases.not_kept(number) == []
    leases.model_said(number, outputs[1], 102.0)
    beat(leases, number, 102.0)
    leases[number].ending = True
    assert leases.not_kept(number) == []
    assert leases.not_kept(99) == []

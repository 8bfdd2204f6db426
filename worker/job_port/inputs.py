"""From the bytes of a leased job to what is to be executed. Pure.

It is done beside the replica's loop, which is given what was read and judged.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, WireError
from penstock.shared.jobs.payload import OtherVersionError, unpack_input
from penstock.shared.jobs.record import JobRecord
from penstock.shared.wire.messages import Failure, Request
from penstock.shared.wire.records import record
from penstock.worker.job_line.messages import Job
from penstock.worker.job_port.fitting import misfit


@record
class Read:
    """A job that fits the model; `client_id` is what its client called the request."""

    job: Job
    client_id: str


@record
class Unreadable:
    """Another replica may be able to read it; why this one is not."""

    reason: str


def read_input(
    number: int, job: JobRecord, body: bytes, interface: ModelInterface
) -> Read | Unreadable | Failure:
    """The job that the bytes hold, or why it is none for this model.

    Args:
        number: its name in this replica.
        job: its record.
        body: its payload.
        interface: of the model that is to execute it.
    """
    try:
        read = unpack_input(body)
    except OtherVersionError as error:
        return Unreadable(str(error))
    except WireError as error:
        return Failure(ErrorCode.INTERNAL, f"the job's input cannot be read: {error}")
    reason = _misfit(job, read.request, interface)
    if reason:
        return Failure(ErrorCode.INVALID_INPUT, reason)
    request = replace(
        read.request,
        attempt_id=number,
        priority=job.job.priority,
        suspect=job.deaths > 0,
        traceparent="",
    )
    timeout_ms = job.job.timeout_ms
    timeout_s = timeout_ms / 1000 if timeout_ms else None
    return Read(Job(number, request, timeout_s, job.id), read.client_id)


def _misfit(job: JobRecord, request: Request, interface: ModelInterface) -> str:
    """Why a job that another version was meant for is none for this one; else empty."""
    reason = misfit(request, interface) if job.moved_from else ""
    if not reason:
        return ""
    before, now = job.moved_from, job.job.version
    return f"submitted for version {before!r}, the input does not fit version {now!r}: {reason}"

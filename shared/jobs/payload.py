"""Inputs and results of jobs as bytes: what a gateway submits, and what a replica commits.

Both are a msgpack array `[VERSION, id, frame, ...]`, with the frames that `shared.wire` makes of
the request or of its answer. A store keeps them for days, so a reader refuses what another version
wrote.
"""

from __future__ import annotations

import msgpack

from shared.errors import WireError
from shared.messages import Envelope, Final, Message, Request
from shared.packed import unpack
from shared.records import record
from shared.tensors import Buffer
from shared.wire import decode, encode

VERSION = 1

INPUT_TYPE = "application/vnd.penstock.job-input"
RESULT_TYPE = "application/vnd.penstock.job-result"


@record
class JobInput:
    """What a job is to execute.

    Attributes:
        client_id: what the client called its request; its answer names it again.
        request: its attempt, budgets and priority mean nothing here.
    """

    client_id: str
    request: Request


@record
class JobResult:
    """What a job came to; `final` holds no failure, since that is part of the job's record."""

    client_id: str
    final: Final


class OtherVersionError(WireError):
    """Bytes that another version of this software wrote."""


def pack_input(job_input: JobInput) -> bytes:
    """The input as bytes."""
    return _pack(job_input.client_id, job_input.request)


def unpack_input(data: Buffer) -> JobInput:
    """The input that the bytes hold; its tensors are views of them.

    Raises:
        OtherVersionError: if somebody else may be able to read them.
        WireError: if they hold none.
    """
    client_id, message = _unpack(data)
    if not isinstance(message, Request):
        raise WireError("a job's input that is no request")
    return JobInput(client_id, message)


def pack_result(result: JobResult) -> bytes:
    """The result as bytes."""
    return _pack(result.client_id, result.final)


def unpack_result(data: Buffer) -> JobResult:
    """The result that the bytes hold; its tensors are views of them.

    Raises:
        WireError: if they hold none.
    """
    client_id, message = _unpack(data)
    if not isinstance(message, Final):
        raise WireError("a job's result that is no answer")
    return JobResult(client_id, message)


def _pack(client_id: str, message: Message) -> bytes:
    packed: bytes = msgpack.packb([VERSION, client_id, *encode(Envelope("", (message,)))])
    return packed


def _unpack(data: Buffer) -> tuple[str, Message]:
    try:
        version, client_id, *frames = unpack(data)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"a job's data that is no msgpack: {type(error).__name__}") from error
    if type(version) is int and version != VERSION:
        raise OtherVersionError(f"a job's data of version {version}, expected {VERSION}")
    if type(version) is not int or type(client_id) is not str or not frames:
        raise WireError("a job's data that is neither an input nor a result")
    if any(type(frame) is not bytes for frame in frames):
        raise WireError("a job's data with a frame that is no bytes")
    messages = decode(frames).messages
    if len(messages) != 1:
        raise WireError("a job's data with more or less than one message")
    return client_id, messages[0]

"""Messages between a replica's loop and its job port as frames, and back. Pure.

Frame 0 is a msgpack array that begins with the message's kind. Requests and answers follow in the
frames that `penstock.shared.wire.codec` makes of them, so that large tensors are referred to and
not copied here, and what is read is checked; an output's bytes are a frame of their own. Not
pickle: it is not quicker (3 or 4 µs each way for a job of 3 kB), and whatever it read would be
obeyed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import msgpack

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import WireError
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.record import Content
from penstock.shared.wire.codec import decode as envelope_of
from penstock.shared.wire.codec import encode as frames_of
from penstock.shared.wire.messages import Envelope, Final, Message, Nack, Request
from penstock.shared.wire.packed import unpack
from penstock.shared.wire.tensors import Buffer
from penstock.worker.job_line.messages import (
    Alive,
    Began,
    Begin,
    Ended,
    FromPort,
    Gone,
    Hinted,
    InputFetched,
    Job,
    Leased,
    LeaseTerms,
    Leave,
    Pull,
    Told,
    ToPort,
)

Frames: TypeAlias = Sequence[Buffer]
Head: TypeAlias = Sequence[Any]


def encode(message: ToPort | FromPort) -> Frames:
    """A message as frames; tensors and outputs that are large are views of what it holds."""
    head, frames = _ENCODERS[type(message)](message)
    return [_packb(head), *frames]


def decode(frames: Frames) -> ToPort | FromPort:
    """The message that the frames hold; its tensors are views of them.

    Raises:
        WireError: if they are anything but what `encode` makes.
    """
    try:
        kind, *head = unpack(frames[0], use_list=True)
        return _DECODERS[kind](head, frames[1:])
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise WireError(f"no message of a job port: {type(error).__name__}") from error
    except msgpack.exceptions.UnpackException as error:
        raise WireError(f"no msgpack: {type(error).__name__}") from error


def _packb(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


# To the port


def _encode_begin(message: Begin) -> tuple[Head, Frames]:
    terms = message.terms
    whose = (terms.model, terms.revision, terms.holder)
    limits = (terms.lease_s, terms.heartbeat_s, terms.store_bytes_max)
    store = (message.version, message.redis_url, message.namespace, message.blobs_url)
    interface = message.interface.model_dump_json()
    rest = (*store, interface, message.numbers_after, message.inherits)
    return (_BEGIN, (*whose, *limits), *rest), ()


def _decode_begin(head: Head, _: Frames) -> Begin:
    terms, version, redis_url, namespace, blobs_url, interface, numbers_after, inherits = head
    return Begin(
        LeaseTerms(*terms),
        version=version,
        redis_url=redis_url,
        namespace=namespace,
        blobs_url=blobs_url,
        interface=ModelInterface.model_validate_json(interface),
        numbers_after=numbers_after,
        inherits=inherits,
    )


def _encode_told(message: Told) -> tuple[Head, Frames]:
    said = message.said
    if isinstance(said, Progress):
        return (_TOLD, message.number, said.fraction, said.message, said.estimated), ()
    content, body = said
    head = (_TOLD, message.number, content.media_type, content.size_bytes, content.blob)
    return head, (body,)


def _decode_told(head: Head, frames: Frames) -> Told:
    number, *said = head
    if not frames:
        return Told(number, Progress(*said))
    return Told(number, (Content(*said), bytes(frames[0])))


def _encode_ended(message: Ended) -> tuple[Head, Frames]:
    answers = tuple(message.answers)
    head = (_ENDED, message.at, [_cause(answer) for answer in answers])
    return head, frames_of(Envelope("", answers))


def _decode_ended(head: Head, frames: Frames) -> Ended:
    at, causes = head
    answers = envelope_of(frames, len(causes)).messages
    return Ended(tuple([_caused(*each) for each in zip(answers, causes, strict=True)]), at)


def _cause(answer: Final | Nack) -> str:
    """What gateways are not told, and their wire leaves out."""
    failure = answer.failure if isinstance(answer, Final) else None
    return failure.cause if failure is not None else ""


def _caused(answer: Message, cause: str) -> Final | Nack:
    if not isinstance(answer, Final | Nack) or not isinstance(cause, str):
        raise WireError("a job's end that is no answer")
    if isinstance(answer, Nack) or answer.failure is None or not cause:
        return answer
    return replace(answer, failure=replace(answer.failure, cause=cause))


# From the port


def _encode_leased(message: Leased) -> tuple[Head, Frames]:
    jobs = [(job.number, job.timeout_s, job.id) for job in message.jobs]
    head = (_LEASED, list(message.numbers), jobs, message.more, message.suspects_waiting)
    if not jobs:
        return head, ()
    return head, frames_of(Envelope("", tuple([job.request for job in message.jobs])))


def _decode_leased(head: Head, frames: Frames) -> Leased:
    numbers, jobs, more, suspects_waiting = head
    return Leased(numbers, _jobs(jobs, frames), more, suspects_waiting)


def _encode_fetched(message: InputFetched) -> tuple[Head, Frames]:
    job = message.job
    return (_FETCHED, (job.number, job.timeout_s, job.id)), frames_of(Envelope("", (job.request,)))


def _decode_fetched(head: Head, frames: Frames) -> InputFetched:
    (job,) = _jobs(head, frames)
    return InputFetched(job)


def _jobs(heads: Sequence[Head], frames: Frames) -> list[Job]:
    requests = envelope_of(frames, len(heads)).messages if frames else ()
    jobs = []
    for (number, timeout_s, job_id), request in zip(heads, requests, strict=True):
        if not isinstance(request, Request):
            raise WireError("a job's input that is no request")
        jobs.append(Job(number, request, timeout_s, job_id))
    return jobs


_BEGIN, _PULL, _BEGAN, _TOLD, _ENDED, _LEAVE = range(6)
_HINTED, _LEASED, _FETCHED, _GONE, _ALIVE = range(10, 15)

_ENCODERS: dict[type, Callable[[Any], tuple[Head, Frames]]] = {
    Begin: _encode_begin,
    Pull: lambda m: ((_PULL, m.most, m.idle), ()),
    Began: lambda m: ((_BEGAN, list(m.numbers), m.expected_s, m.at), ()),
    Told: _encode_told,
    Ended: _encode_ended,
    Leave: lambda m: ((_LEAVE,), ()),
    Hinted: lambda m: ((_HINTED,), ()),
    Leased: _encode_leased,
    InputFetched: _encode_fetched,
    Gone: lambda m: ((_GONE, m.number), ()),
    Alive: lambda m: ((_ALIVE,), ()),
}

_DECODERS: dict[int, Callable[[Head, Frames], ToPort | FromPort]] = {
    _BEGIN: _decode_begin,
    _PULL: lambda head, _: Pull(*head),
    _BEGAN: lambda head, _: Began(*head),
    _TOLD: _decode_told,
    _ENDED: _decode_ended,
    _LEAVE: lambda head, _: Leave(),
    _HINTED: lambda head, _: Hinted(),
    _LEASED: _decode_leased,
    _FETCHED: _decode_fetched,
    _GONE: lambda head, _: Gone(*head),
    _ALIVE: lambda head, _: Alive(),
}

"""Envelopes as ZeroMQ frames, and back.

Frame 0 is a msgpack array `[VERSION, gateway incarnation, [message, ...]]`, each message an array
that begins with its kind. A tensor is `[name, datatype, shape, data]`, where `data` is either the
bytes themselves (small tensors: one copy is cheaper than a frame) or the number of the frame,
counted from 1, that holds them (large ones: never copied here). All frames belong to exactly one
tensor. Whatever the bytes, `decode` returns an envelope or raises `WireError`.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgpack

from penstock.shared.contracts.errors import ErrorCode, WireError
from penstock.shared.wire.messages import (
    Alone,
    Cancel,
    Chunk,
    Drain,
    Envelope,
    Failure,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    NackReason,
    Parameters,
    Probe,
    Proceed,
    Request,
    SuspectTurn,
)
from penstock.shared.wire.packed import unpack
from penstock.shared.wire.packed_values import (
    INT64_MAX,
    Packed,
    array_of,
    bool_of,
    bytes_of,
    shown,
    text_of,
    uint_of,
)
from penstock.shared.wire.tensors import LENGTH_BYTES, NUMPY_OF, SCORING, Buffer, Tensor

VERSION = 1

INLINE_BYTES_MAX: typing.Final = 8 * 1024  # the other `Final` is a message
"""Tensors up to this size travel inside the header: below it a copy costs less than a frame."""

SHARED_BYTES_MIN = 256 * 1024
"""Frames from this size on are given to libzmq to send from where they are; others it copies. To
share costs a message between threads for each frame, with a thread of pyzmq's that takes the
interpreter's lock: as much time as copying half a megabyte."""

HEADER_BYTES_MAX = 64 * 1024 * 1024
"""No header may be larger; what is made of it is in proportion to it (see `packed`)."""

WHOLE_HEADER_BYTES_MAX: typing.Final = 384 * 1024
"""Messages whose header is larger leave in several envelopes. Any messages of ours that fit in it
hold few enough values to be read: 41 bytes of objects for each byte at most, 16 MiB together."""

FRAMES_MAX = 64 * 1024
"""Frames of one envelope. Each becomes an object of 200 bytes before anybody looks at it, and holds
more than `INLINE_BYTES_MAX` if we sent it: half a gigabyte together."""

DIMENSIONS_MAX: typing.Final = 32
"""numpy's own limit before 2.0; real tensors have fewer than ten."""

EMPTY_SIZES_MAX = 2**59
"""What the other sizes in the shape of an empty tensor may come to. Its bytes say nothing of them,
and array libraries refuse what would take more than 2^63 bytes if it were not empty."""

EMPTY_INPUT_SIZES_MAX = 2**31
"""The same for inputs, as gateways have it: a model may well make something of each empty row."""

_ITEM_BYTES = {datatype: dtype.itemsize for datatype, dtype in NUMPY_OF.items()}
_ITEM_BYTES["BYTES"] = LENGTH_BYTES  # at least: what an element says is counted where it is read
_ITEM_BYTES[SCORING] = 0  # likewise; its shape says nothing of its size
_OPEN_SIZED = ("BYTES", SCORING)

_CODES = {code.value: code for code in ErrorCode}

_PACKER = msgpack.Packer(use_bin_type=True)
"""Kept, because to make one for each envelope takes longer than to pack a small message. It holds
the interpreter while it packs, and empties itself after each message, packed or not."""

Frames: TypeAlias = list[Buffer]

_PROBE, _REQUEST, _CANCEL, _DRAIN, _HELLO, _LOAD, _CHUNK, _FINAL, _NACK = range(1, 10)
_SUSPECT_TURN, _PROCEED, _ALONE = range(10, 13)


def encode(envelope: Envelope) -> Frames:
    """The envelope as frames. Tensors above `INLINE_BYTES_MAX` are referred to, not copied."""
    frames: Frames = [b""]
    body = [_ENCODERS[type(message)](message, frames) for message in envelope.messages]
    frames[0] = _PACKER.pack((VERSION, envelope.gateway, body))
    return frames


def envelopes(gateway: str, messages: Sequence[Message]) -> list[tuple[Sequence[Message], Frames]]:
    """Messages as the frames of one envelope, or of several if they are many, each with its own."""
    frames = encode(Envelope(gateway, tuple(messages)))
    if len(frames[0]) <= WHOLE_HEADER_BYTES_MAX or len(messages) == 1:
        return [(messages, frames)]
    half = len(messages) // 2
    return envelopes(gateway, messages[:half]) + envelopes(gateway, messages[half:])


def decode(frames: Sequence[Buffer], parts: int = 1) -> Envelope:
    """The envelope that the frames hold; its tensors are views of the frames.

    Args:
        frames: as they came. parts: envelopes that were put together into this one; see
        `penstock.shared.wire.packed.unpack`.

    Raises:
        WireError: if they are anything but what `encode` makes.
    """
    try:
        return _decode(frames, parts)
    except WireError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise WireError(f"malformed envelope: {type(error).__name__}") from error
    except msgpack.exceptions.UnpackException as fault:
        raise WireError(f"header is not msgpack: {type(fault).__name__}") from fault


def copied_on_send(frames: Sequence[Buffer]) -> int:
    """Bytes that leave as a copy: the header, and frames that are cheaper to copy than to share."""
    return len(frames[0]) + sum([len(f) for f in frames[1:] if len(f) < SHARED_BYTES_MIN])


def _encode_tensors(tensors: Sequence[Tensor], frames: Frames) -> list[Packed]:
    packed: list[Packed] = []
    for tensor in tensors:
        data = tensor.data
        size = len(data) if type(data) is bytes else memoryview(data).nbytes
        if size <= INLINE_BYTES_MAX:
            packed.append((tensor.name, tensor.datatype, tensor.shape, data))
        else:
            packed.append((tensor.name, tensor.datatype, tensor.shape, len(frames)))
            frames.append(data)
    return packed


def _encode_request(m: Request, frames: Frames) -> Packed:
    return (
        _REQUEST,
        m.attempt_id,
        m.budget_us,
        m.priority,
        m.suspect,
        m.traceparent,
        _encode_tensors(m.inputs, frames),
        m.outputs,
        m.parameters,
        m.queue_budget_us,
    )


def _encode_final(m: Final, frames: Frames) -> Packed:
    failure = (m.failure.code.value, m.failure.message) if m.failure else None
    tensors = _encode_tensors(m.outputs, frames)
    return (_FINAL, m.attempt_id, tensors, failure, m.queue_us, m.infer_us, m.batch_rows)


def _encode_chunk(m: Chunk, frames: Frames) -> Packed:
    return (_CHUNK, m.attempt_id, m.sequence, _encode_tensors(m.outputs, frames))


def _encode_hello(m: Hello, _: Frames) -> Packed:
    identity = (m.replica, m.worker, m.model, m.version, m.revision)
    return (_HELLO, *identity, m.interface, m.route, m.takes_calls)


_ENCODERS: dict[type, Callable[[Any, Frames], Packed]] = {
    Probe: lambda m, _: (_PROBE, m.known),
    Request: _encode_request,
    Cancel: lambda m, _: (_CANCEL, m.attempt_id),
    Drain: lambda m, _: (_DRAIN,),
    Hello: _encode_hello,
    Load: lambda m, _: (_LOAD, m.queued_rows, m.executing_rows, m.row_us, m.executing),
    Chunk: _encode_chunk,
    Final: _encode_final,
    Nack: lambda m, _: (_NACK, m.attempt_id, m.reason.value),
    SuspectTurn: lambda m, _: (_SUSPECT_TURN, m.attempt_id),
    Proceed: lambda m, _: (_PROCEED, m.attempt_id),
    Alone: lambda m, _: (_ALONE, m.active),
}


class _TensorReader:
    """Takes tensors out of packed form; every data frame is used exactly once."""

    __slots__ = ("_frames", "_next")

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self._frames = frames
        self._next = 1

    def read(self, packed: Any, empty_sizes_max: int = EMPTY_SIZES_MAX) -> tuple[Tensor, ...]:
        """The tensors of one message."""
        tensors: list[Tensor] = []
        if type(packed) is not tuple:
            raise WireError("tensors that are no array")
        for entry in packed:
            if type(entry) is not tuple:
                raise WireError("a tensor that is no array")
            name, datatype, shape, data = entry
            size = _ITEM_BYTES.get(datatype)
            if size is None or type(name) is not str:
                raise WireError("tensor with an unknown datatype or without a name")
            if type(shape) is not tuple or len(shape) > DIMENSIONS_MAX:
                raise WireError(f"tensor {shown(name)} has an impossible shape")
            for length in shape:
                if type(length) is not int or length < 0:
                    raise WireError(f"tensor {shown(name)} has an impossible shape")
                size *= length
            if type(data) is bytes:
                got = len(data)
            else:
                data = self._frame(name, data)
                got = len(data) if type(data) is bytes else memoryview(data).nbytes
            if got != size and (datatype not in _OPEN_SIZED or got < size):
                raise WireError(f"tensor {shown(name)}: expected {shown(size)} bytes, got {got}")
            if size == 0 and math.prod([length or 1 for length in shape]) > empty_sizes_max:
                raise WireError(f"tensor {shown(name)} has an impossible shape")
            tensors.append(Tensor(name, datatype, shape, data))
        return tuple(tensors)

    def _frame(self, name: str, number: Any) -> Buffer:
        if type(number) is not int:
            raise WireError(f"tensor {shown(name)} has data of type {type(number).__name__}")
        if number != self._next or number >= len(self._frames):
            raise WireError(f"tensor {shown(name)} refers to frame {number}, expected {self._next}")
        self._next += 1
        return self._frames[number]

    def finish(self) -> None:
        """After the last message: nothing may be left over."""
        if self._next != len(self._frames):
            raise WireError(f"{len(self._frames) - self._next} frames belong to no tensor")


def _decode(frames: Sequence[Buffer], parts: int) -> Envelope:
    if not frames:
        raise WireError("no frames")
    if len(frames) > parts * FRAMES_MAX:
        raise WireError(f"more than {parts * FRAMES_MAX} frames")
    if len(frames[0]) > parts * HEADER_BYTES_MAX:
        raise WireError(f"header of {len(frames[0])} bytes, at most {parts * HEADER_BYTES_MAX}")
    version, gateway, body = array_of(unpack(frames[0], parts))
    if type(version) is not int or version != VERSION:
        raise WireError(f"protocol version {shown(version)}, expected {VERSION}")
    reader = _TensorReader(frames)
    messages: list[Message] = []
    for entry in array_of(body):
        kind = entry[0] if type(entry) is tuple else None
        decoder = _DECODERS.get(kind) if type(kind) is int else None
        if decoder is None:
            raise WireError(f"unknown message kind {shown(kind)}")
        messages.append(decoder(entry, reader))
    reader.finish()
    return Envelope(text_of(gateway), tuple(messages))


def _decode_request(fields: Packed, reader: _TensorReader) -> Request:
    (
        _,
        attempt_id,
        budget_us,
        priority,
        suspect,
        traceparent,
        inputs,
        outputs,
        parameters,
        queue_budget_us,
    ) = fields
    if (
        type(attempt_id) is not int
        or type(budget_us) is not int
        or type(queue_budget_us) is not int
        or type(priority) is not int
        or not 0 <= attempt_id <= INT64_MAX
        or not 0 <= budget_us <= INT64_MAX
        or not 0 <= queue_budget_us <= INT64_MAX
        or not 0 <= priority <= INT64_MAX
        or type(suspect) is not bool
        or type(traceparent) is not str
    ):
        raise WireError("a request has a field of a wrong type or size")
    return Request(
        attempt_id=attempt_id,
        budget_us=budget_us,
        inputs=reader.read(inputs, EMPTY_INPUT_SIZES_MAX),
        priority=priority,
        suspect=suspect,
        traceparent=traceparent,
        outputs=tuple([text_of(name) for name in array_of(outputs)]) if outputs != () else (),
        parameters=_parameters(parameters) if parameters != () else (),
        queue_budget_us=queue_budget_us,
    )


def _decode_final(fields: Packed, reader: _TensorReader) -> Final:
    _, attempt_id, outputs, failure, queue_us, infer_us, batch_rows = fields
    if (
        type(attempt_id) is not int
        or type(queue_us) is not int
        or type(infer_us) is not int
        or type(batch_rows) is not int
        or not 0 <= attempt_id <= INT64_MAX
        or not 0 <= queue_us <= INT64_MAX
        or not 0 <= infer_us <= INT64_MAX
        or not 0 <= batch_rows <= INT64_MAX
    ):
        raise WireError("a final has a field of a wrong type or size")
    return Final(
        attempt_id=attempt_id,
        outputs=reader.read(outputs),
        failure=None if failure is None else _failure(failure),
        queue_us=queue_us,
        infer_us=infer_us,
        batch_rows=batch_rows,
    )


def _decode_chunk(fields: Packed, reader: _TensorReader) -> Chunk:
    _, attempt_id, sequence, outputs = fields
    return Chunk(uint_of(attempt_id), uint_of(sequence), reader.read(outputs))


def _decode_hello(fields: Packed, reader: _TensorReader) -> Hello:
    _, replica, worker, model, version, revision, interface, route, takes_calls = fields
    return Hello(
        replica=text_of(replica),
        worker=text_of(worker),
        model=text_of(model),
        version=text_of(version),
        revision=text_of(revision),
        interface=bytes_of(interface),
        route=bytes_of(route),
        takes_calls=bool_of(takes_calls),
    )


def _decode_load(fields: Packed, reader: _TensorReader) -> Load:
    _, queued_rows, executing_rows, row_us, executing = fields
    attempts = tuple([uint_of(attempt_id) for attempt_id in array_of(executing)])
    return Load(uint_of(queued_rows), uint_of(executing_rows), uint_of(row_us), attempts)


def _decode_cancel(fields: Packed, reader: _TensorReader) -> Cancel:
    _, attempt_id = fields
    return Cancel(uint_of(attempt_id))


def _decode_suspect_turn(fields: Packed, reader: _TensorReader) -> SuspectTurn:
    _, attempt_id = fields
    return SuspectTurn(uint_of(attempt_id))


def _decode_proceed(fields: Packed, reader: _TensorReader) -> Proceed:
    _, attempt_id = fields
    return Proceed(uint_of(attempt_id))


def _decode_alone(fields: Packed, reader: _TensorReader) -> Alone:
    _, active = fields
    return Alone(bool_of(active))


def _decode_nack(fields: Packed, reader: _TensorReader) -> Nack:
    _, attempt_id, reason = fields
    return Nack(uint_of(attempt_id), NackReason(uint_of(reason)))


def _decode_probe(fields: Packed, reader: _TensorReader) -> Probe:
    _, known = fields
    return Probe(bool_of(known))


def _decode_drain(fields: Packed, reader: _TensorReader) -> Drain:
    (_,) = fields
    return Drain()


_DECODERS: dict[int, Callable[[Packed, _TensorReader], Message]] = {
    _PROBE: _decode_probe,
    _REQUEST: _decode_request,
    _CANCEL: _decode_cancel,
    _DRAIN: _decode_drain,
    _HELLO: _decode_hello,
    _LOAD: _decode_load,
    _CHUNK: _decode_chunk,
    _FINAL: _decode_final,
    _NACK: _decode_nack,
    _SUSPECT_TURN: _decode_suspect_turn,
    _PROCEED: _decode_proceed,
    _ALONE: _decode_alone,
}


def _failure(packed: Any) -> Failure:
    code, message = array_of(packed)
    known = _CODES.get(text_of(code))
    if known is None:
        raise WireError(f"unknown error code {shown(code)}")
    return Failure(known, text_of(message))


def _parameters(packed: Any) -> Parameters:
    pairs: list[tuple[str, Any]] = []
    for entry in array_of(packed):
        name, value = array_of(entry)
        if not isinstance(value, str | int | float | bool | None):
            raise WireError(f"parameter {shown(name)} is no scalar")
        pairs.append((text_of(name), value))
    return tuple(pairs)

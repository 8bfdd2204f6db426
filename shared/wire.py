"""Envelopes as ZeroMQ frames, and back.

Frame 0 is a msgpack array `[VERSION, gateway incarnation, [message, ...]]`, each message an array
that begins with its kind. A tensor is `[name, datatype, shape, data]`, where `data` is either the
bytes themselves (small tensors: one copy is cheaper than a frame) or the number of the frame,
counted from 1, that holds them (large ones: never copied here). All frames belong to exactly one
tensor. Whatever the bytes, `decode` returns an envelope or raises `WireError`.

The previous stop of a request is `gateway.transport`, the next `worker.replica`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgpack

from shared.errors import ErrorCode, WireError
from shared.messages import (
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
from shared.tensors import NUMPY_OF, Buffer, Tensor

VERSION = 1

INLINE_BYTES_MAX = 8 * 1024
"""Tensors up to this size travel inside the header: below it a copy costs less than a frame."""

HEADER_BYTES_MAX = 64 * 1024 * 1024
"""No header may be larger; msgpack allocates in proportion to it, however hostile it is."""

DIMENSIONS_MAX = 32
"""numpy's own limit before 2.0; real tensors have fewer than ten."""

INT64_MAX = 2**63 - 1

Frames: TypeAlias = list[Buffer]

_PROBE, _REQUEST, _CANCEL, _DRAIN, _HELLO, _LOAD, _CHUNK, _FINAL, _NACK = range(1, 10)
_SUSPECT_TURN, _PROCEED = range(10, 12)


def encode(envelope: Envelope) -> Frames:
    """The envelope as frames. Tensors above `INLINE_BYTES_MAX` are referred to, not copied."""
    frames: Frames = [b""]
    body = [_encode_message(message, frames) for message in envelope.messages]
    frames[0] = msgpack.packb([VERSION, envelope.gateway, body], use_bin_type=True)
    return frames


def decode(frames: Sequence[Buffer]) -> Envelope:
    """The envelope that the frames hold; its tensors are views of the frames.

    Raises:
        WireError: if they are anything but what `encode` makes.
    """
    try:
        return _decode(frames)
    except WireError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError) as error:
        raise WireError(f"malformed envelope: {type(error).__name__}") from error
    except msgpack.exceptions.UnpackException as error:
        raise WireError(f"header is not msgpack: {type(error).__name__}") from error


def _encode_tensors(tensors: Sequence[Tensor], frames: Frames) -> list[Any]:
    packed: list[Any] = []
    for tensor in tensors:
        data = tensor.data
        size = len(data) if isinstance(data, bytes) else memoryview(data).nbytes
        if size <= INLINE_BYTES_MAX:
            packed.append((tensor.name, tensor.datatype, tensor.shape, bytes(data)))
        else:
            packed.append((tensor.name, tensor.datatype, tensor.shape, len(frames)))
            frames.append(data)
    return packed


def _encode_request(m: Request, frames: Frames) -> list[Any]:
    return [
        _REQUEST,
        m.attempt_id,
        m.budget_us,
        m.priority,
        m.suspect,
        m.traceparent,
        _encode_tensors(m.inputs, frames),
        m.outputs,
        m.parameters,
    ]


def _encode_final(m: Final, frames: Frames) -> list[Any]:
    failure = (m.failure.code.value, m.failure.message) if m.failure else None
    tensors = _encode_tensors(m.outputs, frames)
    return [_FINAL, m.attempt_id, tensors, failure, m.queue_us, m.infer_us, m.batch_rows]


def _encode_chunk(m: Chunk, frames: Frames) -> list[Any]:
    return [_CHUNK, m.attempt_id, m.sequence, _encode_tensors(m.outputs, frames)]


def _encode_hello(m: Hello, _: Frames) -> list[Any]:
    return [_HELLO, m.replica, m.worker, m.model, m.version, m.revision, m.interface, m.route]


_ENCODERS: dict[type, Callable[[Any, Frames], list[Any]]] = {
    Probe: lambda m, _: [_PROBE, m.known],
    Request: _encode_request,
    Cancel: lambda m, _: [_CANCEL, m.attempt_id],
    Drain: lambda m, _: [_DRAIN],
    Hello: _encode_hello,
    Load: lambda m, _: [_LOAD, m.queued_rows, m.executing_rows, m.row_us],
    Chunk: _encode_chunk,
    Final: _encode_final,
    Nack: lambda m, _: [_NACK, m.attempt_id, m.reason.value],
    SuspectTurn: lambda m, _: [_SUSPECT_TURN, m.attempt_id],
    Proceed: lambda m, _: [_PROCEED, m.attempt_id],
}


def _encode_message(message: Message, frames: Frames) -> list[Any]:
    return _ENCODERS[type(message)](message, frames)


class _TensorReader:
    """Takes tensors out of packed form; every data frame is used exactly once."""

    def __init__(self, frames: Sequence[Buffer]) -> None:
        self._frames = frames
        self._next = 1

    def read(self, packed: Any) -> tuple[Tensor, ...]:
        return tuple([self._read_one(entry) for entry in _list(packed)])

    def _read_one(self, entry: Any) -> Tensor:
        name, datatype, shape, data = _list(entry)
        if datatype not in NUMPY_OF or not isinstance(name, str):
            raise WireError("tensor with an unknown datatype or without a name")
        sizes = tuple(_list(shape))
        if len(sizes) > DIMENSIONS_MAX or any(type(size) is not int or size < 0 for size in sizes):
            raise WireError(f"tensor {name!r} has an impossible shape")
        if type(data) is int:
            if data != self._next or data >= len(self._frames):
                raise WireError(f"tensor {name!r} refers to frame {data}, expected {self._next}")
            data = self._frames[data]
            self._next += 1
        elif not isinstance(data, bytes):
            raise WireError(f"tensor {name!r} has data of type {type(data).__name__}")
        if datatype != "BYTES":
            expected = math.prod(sizes) * NUMPY_OF[datatype].itemsize
            got = len(data) if isinstance(data, bytes) else memoryview(data).nbytes
            if got != expected:
                raise WireError(f"tensor {name!r}: expected {expected} bytes, got {got}")
        return Tensor(name, datatype, sizes, data)

    def finish(self) -> None:
        if self._next != len(self._frames):
            raise WireError(f"{len(self._frames) - self._next} frames belong to no tensor")


def _decode(frames: Sequence[Buffer]) -> Envelope:
    if not frames:
        raise WireError("no frames")
    if len(frames[0]) > HEADER_BYTES_MAX:
        raise WireError(f"header of {len(frames[0])} bytes, at most {HEADER_BYTES_MAX}")
    header = msgpack.unpackb(frames[0])
    version, gateway, body = _list(header)
    if version != VERSION or type(version) is not int:
        raise WireError(f"protocol version {version!r:.20}, expected {VERSION}")
    reader = _TensorReader(frames)
    messages = tuple([_decode_message(entry, reader) for entry in _list(body)])
    reader.finish()
    return Envelope(_str(gateway), messages)


def _decode_message(entry: Any, reader: _TensorReader) -> Message:
    kind, *fields = _list(entry)
    decoder = _DECODERS.get(kind) if type(kind) is int else None
    if decoder is None:
        raise WireError(f"unknown message kind {kind!r:.20}")
    return decoder(fields, reader)


def _decode_request(fields: list[Any], reader: _TensorReader) -> Request:
    attempt_id, budget_us, priority, suspect, traceparent, inputs, outputs, parameters = fields
    return Request(
        attempt_id=_uint(attempt_id),
        budget_us=_uint(budget_us),
        priority=_uint(priority),
        suspect=_bool(suspect),
        traceparent=_str(traceparent),
        inputs=reader.read(inputs),
        outputs=tuple([_str(name) for name in _list(outputs)]),
        parameters=_parameters(parameters),
    )


def _decode_final(fields: list[Any], reader: _TensorReader) -> Final:
    attempt_id, outputs, failure, queue_us, infer_us, batch_rows = fields
    return Final(
        attempt_id=_uint(attempt_id),
        outputs=reader.read(outputs),
        failure=None if failure is None else _failure(failure),
        queue_us=_uint(queue_us),
        infer_us=_uint(infer_us),
        batch_rows=_uint(batch_rows),
    )


def _decode_chunk(fields: list[Any], reader: _TensorReader) -> Chunk:
    attempt_id, sequence, outputs = fields
    return Chunk(_uint(attempt_id), _uint(sequence), reader.read(outputs))


def _decode_hello(fields: list[Any], _: _TensorReader) -> Hello:
    replica, worker, model, version, revision, interface, route = fields
    return Hello(
        _str(replica),
        _str(worker),
        _str(model),
        _str(version),
        _str(revision),
        _bytes(interface),
        _bytes(route),
    )


def _decode_load(fields: list[Any], _: _TensorReader) -> Load:
    queued_rows, executing_rows, row_us = fields
    return Load(_uint(queued_rows), _uint(executing_rows), _uint(row_us))


def _decode_cancel(fields: list[Any], _: _TensorReader) -> Cancel:
    (attempt_id,) = fields
    return Cancel(_uint(attempt_id))


def _decode_suspect_turn(fields: list[Any], _: _TensorReader) -> SuspectTurn:
    (attempt_id,) = fields
    return SuspectTurn(_uint(attempt_id))


def _decode_proceed(fields: list[Any], _: _TensorReader) -> Proceed:
    (attempt_id,) = fields
    return Proceed(_uint(attempt_id))


def _decode_nack(fields: list[Any], _: _TensorReader) -> Nack:
    attempt_id, reason = fields
    return Nack(_uint(attempt_id), NackReason(_uint(reason)))


def _decode_probe(fields: list[Any], _: _TensorReader) -> Probe:
    (known,) = fields
    return Probe(_bool(known))


def _decode_drain(fields: list[Any], _: _TensorReader) -> Drain:
    _empty(fields)
    return Drain()


_DECODERS: dict[int, Callable[[list[Any], _TensorReader], Message]] = {
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
}


def _failure(packed: Any) -> Failure:
    code, message = _list(packed)
    return Failure(ErrorCode(_str(code)), _str(message))


def _parameters(packed: Any) -> Parameters:
    pairs: list[tuple[str, Any]] = []
    for entry in _list(packed):
        name, value = _list(entry)
        if not isinstance(value, str | int | float | bool | None):
            raise WireError(f"parameter {name!r:.40} is no scalar")
        pairs.append((_str(name), value))
    return tuple(pairs)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise WireError(f"expected an array, got {type(value).__name__}")
    return value


def _empty(fields: list[Any]) -> None:
    if fields:
        raise WireError(f"{len(fields)} fields too many")


def _uint(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= INT64_MAX:
        raise WireError(f"expected an unsigned integer, got {value!r:.40}")
    return value


def _bool(value: Any) -> bool:
    if type(value) is not bool:
        raise WireError(f"expected a boolean, got {type(value).__name__}")
    return value


def _str(value: Any) -> str:
    if type(value) is not str:
        raise WireError(f"expected a string, got {type(value).__name__}")
    return value


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise WireError(f"expected bytes, got {type(value).__name__}")
    return value

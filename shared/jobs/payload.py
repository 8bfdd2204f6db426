"""Inputs and results of jobs as bytes: what a gateway submits, and what a replica commits.

Both are a msgpack array `[VERSION, id, frame, ...]`, with the frames that
`penstock.shared.wire.codec` makes of the request or of its answer. A store keeps them for days, so
a reader refuses what another version wrote.

Frames may be large, and msgpack holds the interpreter for as long as it copies them. So only what
lies between them is read and written as msgpack: frames are copied by numpy, which lets other
threads run meanwhile, and are not copied at all when they are read.
"""

from __future__ import annotations

import struct

import msgpack
import numpy as np

from penstock.shared.contracts.errors import WireError
from penstock.shared.wire.codec import FRAMES_MAX, decode, encode
from penstock.shared.wire.messages import Envelope, Final, Message, Request
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer, nbytes_of

VERSION = 1

JOINED_BYTES_MAX = 256 * 1024
"""What is joined at once: 20 us. To copy more without holding the interpreter takes an array."""

_PACKER = msgpack.Packer()
"""Any thread's: it holds the interpreter while it packs, and empties itself after each value."""

_BIN_LENGTHS = {0xC4: struct.Struct(">B"), 0xC5: struct.Struct(">H"), 0xC6: struct.Struct(">I")}
_TEXT_LENGTHS = {0xD9: struct.Struct(">B"), 0xDA: struct.Struct(">H"), 0xDB: struct.Struct(">I")}
_ARRAY_LENGTHS = {0xDC: struct.Struct(">H"), 0xDD: struct.Struct(">I")}
_SHORT_TEXT, _SHORT_ARRAY = range(0xA0, 0xC0), range(0x90, 0xA0)
_VERSIONS = range(0x80)
"""Numbers of one byte: more versions than there will be."""

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


def pack_input(job_input: JobInput) -> Buffer:
    """The input as bytes; large ones are for a thread, which holds nobody up."""
    return _joined(input_pieces(job_input))


def input_pieces(job_input: JobInput) -> list[Buffer]:
    """The input's bytes in pieces, none of them copied."""
    return _pieces(job_input.client_id, job_input.request)


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


def pack_result(result: JobResult) -> Buffer:
    """The result as bytes; large ones are for a thread, which holds nobody up."""
    return _joined(_pieces(result.client_id, result.final))


def unpack_result(data: Buffer) -> JobResult:
    """The result that the bytes hold; its tensors are views of them.

    Raises:
        WireError: if they hold none.
    """
    client_id, message = _unpack(data)
    if not isinstance(message, Final):
        raise WireError("a job's result that is no answer")
    return JobResult(client_id, message)


def _pieces(client_id: str, message: Message) -> list[Buffer]:
    frames = encode(Envelope("", (message,)))
    head = _PACKER.pack_array_header(2 + len(frames))
    pieces: list[Buffer] = [head, _PACKER.pack(VERSION), _PACKER.pack(client_id)]
    for frame in frames:
        pieces += (_bytes_head(nbytes_of(frame)), frame)
    return pieces


def _bytes_head(size: int) -> bytes:
    """What msgpack writes before that many bytes."""
    code = 0xC4 if size < 1 << 8 else 0xC5 if size < 1 << 16 else 0xC6
    return bytes([code]) + _BIN_LENGTHS[code].pack(size)


def _joined(pieces: list[Buffer]) -> Buffer:
    size = sum([nbytes_of(piece) for piece in pieces])
    if size <= JOINED_BYTES_MAX:
        return b"".join(pieces)
    joined, at = np.empty(size, np.uint8), 0
    for piece in pieces:
        values = np.frombuffer(piece, np.uint8)
        joined[at : at + len(values)] = values
        at += len(values)
    return joined.data.toreadonly()


def _unpack(data: Buffer) -> tuple[str, Message]:
    reader = _Reader(memoryview(data).cast("B"))
    count = reader.length(_ARRAY_LENGTHS, _SHORT_ARRAY)
    version = reader.byte()
    if count < 3 or version not in _VERSIONS:
        raise WireError("a job's data that is neither an input nor a result")
    if version != VERSION:
        raise OtherVersionError(f"a job's data of version {version}, expected {VERSION}")
    client_id = reader.text()
    frames = [reader.frame() for _ in range(min(count - 2, FRAMES_MAX + 1))]
    reader.finish()
    messages = decode(frames).messages
    if len(messages) != 1:
        raise WireError("a job's data with more or less than one message")
    return client_id, messages[0]


class _Reader:
    """Goes through msgpack; what it returns are views.

    All methods raise `WireError` if the bytes are anything but what is asked for.
    """

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def byte(self) -> int:
        return self._take(1)[0]

    def length(self, wide: dict[int, struct.Struct], short: range) -> int:
        """Of a value whose first byte names one of `wide`, or is itself one of `short`."""
        code = self.byte()
        if code in short:
            return code - short.start
        layout = wide.get(code)
        if layout is None:
            raise WireError(f"a job's data with a value of kind {code:#x} where it has no place")
        length: int = layout.unpack(self._take(layout.size))[0]
        return length

    def text(self) -> str:
        raw = self._take(self.length(_TEXT_LENGTHS, _SHORT_TEXT))
        try:
            return str(raw, "utf-8")
        except UnicodeDecodeError as error:
            raise WireError("a job's data with an id that is no text") from error

    def frame(self) -> memoryview:
        return self._take(self.length(_BIN_LENGTHS, range(0)))

    def finish(self) -> None:
        if self._at != len(self._view):
            raise WireError(f"a job's data with {len(self._view) - self._at} bytes too many")

    def _take(self, count: int) -> memoryview:
        taken = self._view[self._at : self._at + count]
        if len(taken) != count:
            raise WireError("a job's data that ends within a value")
        self._at += count
        return taken

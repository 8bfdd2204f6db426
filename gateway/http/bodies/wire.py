"""What goes between a gateway and the processes that read large bodies for it.

A message is a pickle, and behind it, as they are, the buffers that it speaks of: bodies and the
data of tensors are neither pickled nor joined. Both ends are of one program and one user, so that a
pickle may be trusted; what a client sent only ever is a buffer.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import Buffer, Tensor

_HEAD = struct.Struct("<QQ")
_SIZE = struct.Struct("<Q")


@dataclasses.dataclass
class Question:
    """A body to be read.

    Attributes:
        payload: the name of its format.
        headers: that came with it.
        interface: the model's, as JSON.
        max_elements: most numbers and texts in it.
        body: what came; None before and after it is sent.
    """

    payload: str
    headers: dict[bytes, bytes]
    interface: bytes
    max_elements: int
    body: pickle.PickleBuffer | None = None


@dataclasses.dataclass
class Unforeseen:
    """A body at which its reader failed as nobody foresaw.

    Attributes:
        traceback: where, for the log.
    """

    traceback: str


class ReaderGoneError(Exception):
    """The other end has closed the connection."""


class _Pickler(pickle.Pickler):
    """Knows records, which have no dictionary that a pickle could be made of."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor:
            data = pickle.PickleBuffer(value.data)
            return Tensor, (value.name, value.datatype, value.shape, data)
        if isinstance(value, PenstockError):
            return _error, (value.code.value, value.message, value.retry_after_s)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = dataclasses.fields(value)
            return type(value), tuple([getattr(value, field.name) for field in fields])
        return NotImplemented


def _error(code: str, message: str, retry_after_s: float | None) -> PenstockError:
    return PenstockError(ErrorCode(code), message, retry_after_s)


def send(connection: socket.socket, message: object) -> None:
    """Send a message; buffers in it are those of tensors and `pickle.PickleBuffer`."""
    buffers: list[pickle.PickleBuffer] = []
    target = io.BytesIO()
    _Pickler(target, protocol=5, buffer_callback=buffers.append).dump(message)
    content = target.getvalue()
    views = [buffer.raw() for buffer in buffers]
    sizes = b"".join([_SIZE.pack(view.nbytes) for view in views])
    connection.sendall(_HEAD.pack(len(content), len(views)) + sizes + content)
    for view in views:
        connection.sendall(view)


def receive(connection: socket.socket, room: Callable[[int], Buffer]) -> Any:
    """The next message.

    Args:
        connection: to read from.
        room: makes what a buffer of a size in bytes is read into.

    Raises:
        ReaderGoneError: there is none.
        OSError: nothing came within the connection's time-out.
    """
    content_bytes, count = _HEAD.unpack(_filled(bytearray(_HEAD.size), connection))
    sizes = _SIZE.iter_unpack(_filled(bytearray(_SIZE.size * count), connection))
    content = _filled(bytearray(content_bytes), connection)
    return pickle.loads(content, buffers=[_filled(room(size), connection) for (size,) in sizes])


def untouched(size_bytes: int) -> memoryview:
    """Room that nobody clears first, which would hold the interpreter for a while."""
    return np.empty(size_bytes, np.uint8).data


def _filled(target: Buffer, connection: socket.socket) -> Buffer:
    view = memoryview(target)
    while view.nbytes:
        got = connection.recv_into(view)
        if not got:
            raise ReaderGoneError
        view = view[got:]
    return target

"""Frames on a stream of bytes: what is to be sent, and what has come. Pure.

A packet is a message's frames: `<Q` bytes of all that follows, `<I` how many frames, `<Q` bytes of
each, and the frames. Small ones are copied together, so that many messages leave and come in one
system call. Of large ones nothing is copied on sending, and what comes is read to where it stays.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence

import numpy as np

from penstock.shared.contracts.errors import WireError
from penstock.shared.wire.tensors import Buffer

READ_BYTES = 256 * 1024
"""Read at a time: about what a local socket holds."""

JOINED_BYTES_MAX = 16 * 1024
"""Frames up to this size are copied together to be sent."""

PIECES_MAX = 64
"""Sent in one system call; the kernel takes 1024."""

GROWN_FROM_BYTES = 16 * 1024 * 1024
"""Room made at once for a packet that claims more: beyond it, twice what has come already."""

FRAMES_MAX = 48 * 1024
"""Frames of a packet, beside one for each `JOINED_BYTES_MAX`: each becomes an object of 200 bytes,
which is 10 MB if all are empty."""

_PREFIX = struct.Struct("<QI")


class PacketWriter:
    """What waits to be sent, in order."""

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self.waiting_bytes = 0

    def put(self, frames: Sequence[Buffer]) -> None:
        """A message is to be sent. What its large frames are views of must stay as it is."""
        views = [memoryview(frame).cast("B") for frame in frames]
        sizes = struct.pack(f"<{len(views)}Q", *[view.nbytes for view in views])
        after = len(sizes) + sum([view.nbytes for view in views])
        joined = bytearray(_PREFIX.pack(_PREFIX.size - 8 + after, len(views)) + sizes)
        for view in views:
            if view.nbytes <= JOINED_BYTES_MAX:
                joined += view
                continue
            self._pieces += (memoryview(joined), view)
            joined = bytearray()
        if joined:
            self._pieces.append(memoryview(joined))
        self.waiting_bytes += _PREFIX.size + after

    def pieces(self) -> list[memoryview]:
        """What is to be sent next; empty: nothing."""
        return [self._pieces[at] for at in range(min(len(self._pieces), PIECES_MAX))]

    def sent(self, count: int) -> None:
        """So many bytes have left."""
        self.waiting_bytes -= count
        while count:
            first = self._pieces.popleft()
            if first.nbytes > count:
                self._pieces.appendleft(first[count:])
                return
            count -= first.nbytes


class PacketReader:
    """Puts messages together: read into `space()`, then say `filled(count)`."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._kept = 0
        self._large: memoryview | None = None  # a packet that the buffer does not hold
        self._large_kept = 0
        self._large_bytes = 0  # of which so many will have come when it is whole

    def space(self) -> memoryview:
        """Where the next bytes are to be read to."""
        if self._large is not None:
            return self._large[self._large_kept : self._large_kept + READ_BYTES]
        return self._buffer[self._kept :]

    def filled(self, count: int) -> list[list[Buffer]]:
        """So many bytes were read: the messages that are complete now, as frames.

        Raises:
            WireError: if they are nothing that a `PacketWriter` sent; the stream is of no use then.
        """
        if self._large is not None:
            self._large_kept += count
            if self._large_kept < self._large.nbytes:
                return []
            if self._large_kept < self._large_bytes:
                self._grow(self._large)
                return []
            whole, self._large = self._large, None
            return [_frames(whole, copy=False)]
        return self._split(self._kept + count)

    def _split(self, end: int) -> list[list[Buffer]]:
        messages = []
        at = 0
        while end - at >= _PREFIX.size:
            size = 8 + _PREFIX.unpack_from(self._buffer, at)[0]
            if size < _PREFIX.size:
                raise WireError("a packet that is shorter than its own head")
            if end - at < size:
                if size > READ_BYTES:
                    self._begin_large(size, self._buffer[at:end])
                    at = end
                break
            messages.append(_frames(self._buffer[at : at + size], copy=True))
            at += size
        self._kept = end - at
        if at and self._kept:
            self._buffer[: self._kept] = bytes(self._buffer[at:end])
        return messages

    def _begin_large(self, size: int, beginning: memoryview) -> None:
        self._large_bytes = size
        self._large = _room(min(size, GROWN_FROM_BYTES))
        self._large[: beginning.nbytes] = beginning
        self._large_kept = beginning.nbytes

    def _grow(self, full: memoryview) -> None:
        self._large = _room(min(self._large_bytes, 2 * full.nbytes))
        self._large[: full.nbytes] = full


def _room(size: int) -> memoryview:
    return np.empty(size, np.uint8).data  # not filled with zeros, unlike a bytearray


def _frames(packet: memoryview, *, copy: bool) -> list[Buffer]:
    count = _PREFIX.unpack_from(packet)[1]
    at = _PREFIX.size + 8 * count
    if at > packet.nbytes or count > FRAMES_MAX + packet.nbytes // JOINED_BYTES_MAX:
        raise WireError(f"a packet of {packet.nbytes} bytes that claims {count} frames")
    frames: list[Buffer] = []
    for size in struct.unpack_from(f"<{count}Q", packet, _PREFIX.size):
        frame = packet[at : at + size]
        frames.append(bytes(frame) if copy else frame)
        at += size
    if at != packet.nbytes:
        raise WireError("a packet whose frames do not fill it")
    return frames

"""Frames of one message on a ZeroMQ socket, one by one.

pyzmq's own calls for several frames take three times as long as these, in which nothing is looked
at twice: some microseconds of each message, and most messages carry one small request.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from penstock.shared.wire.codec import FRAMES_MAX, SHARED_BYTES_MIN
from penstock.shared.wire.tensors import Buffer

# An enumeration's arithmetic is slow.
NOBLOCK = int(zmq.NOBLOCK)
SNDMORE_NOBLOCK = int(zmq.SNDMORE) | NOBLOCK
POLLIN = int(zmq.POLLIN)


def send_frames(socket: zmq.Socket[bytes], frames: Sequence[Buffer]) -> None:
    """Send a message, or the rest of one, without waiting.

    Small frames are copied, large ones are shared with libzmq, as
    `penstock.shared.wire.codec.copied_on_send` has it.

    Raises:
        zmq.Again: if the peer is not there, or too far behind; nothing was sent.
    """
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        flags = NOBLOCK if index == last else SNDMORE_NOBLOCK
        socket.send(frame, flags, len(frame) < SHARED_BYTES_MIN)


def receive_frames(socket: zmq.Socket[bytes]) -> list[Buffer]:
    """The frames of the next message, or what is left of one, not copied.

    Of more than `FRAMES_MAX` only the first are kept, which is enough for them to be refused.

    Raises:
        zmq.Again: if there is none.
    """
    frame = socket.recv(NOBLOCK, False)
    frames: list[Buffer] = [frame.buffer]
    while frame.more:
        frame = socket.recv(NOBLOCK, False)
        if (
            len(frames) <= FRAMES_MAX
        ):  # one more than `penstock.shared.wire.codec` takes; the rest must be read
            frames.append(frame.buffer)
    return frames


def has_unread(socket: zmq.Socket[bytes]) -> bool:
    """Whether a message waits to be received; cheaper than to be told so by an exception."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & POLLIN)

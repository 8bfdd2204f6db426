"""Frames through a stream of bytes, cut anywhere."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tensors import Buffer
from worker.jobs.packets import JOINED_BYTES_MAX, READ_BYTES, PacketReader, PacketWriter

LARGE = 3 * READ_BYTES + 5


def stream_of(messages: Sequence[Sequence[Buffer]]) -> bytes:
    """All that is sent, taken as a slow socket takes it."""
    writer = PacketWriter()
    for frames in messages:
        writer.put(frames)
    sent = bytearray()
    chance = random.Random(1)
    while pieces := writer.pieces():
        data = b"".join(pieces)
        count = chance.randint(1, len(data))
        sent += data[:count]
        writer.sent(count)
    assert writer.waiting_bytes == 0
    return bytes(sent)


def messages_of(stream: bytes, chunk: int) -> list[list[bytes]]:
    """What comes of it, read in pieces of up to so many bytes."""
    reader = PacketReader()
    found: list[list[bytes]] = []
    at = 0
    while at < len(stream):
        space = reader.space()
        assert space.nbytes
        piece = stream[at : at + min(chunk, space.nbytes)]
        space[: len(piece)] = piece
        found += [[bytes(frame) for frame in frames] for frames in reader.filled(len(piece))]
        at += len(piece)
    return found


@given(
    messages=st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=8),
    chunk=st.integers(1, 200),
)
def test_what_is_sent_comes_however_it_is_cut(messages: list[list[bytes]], chunk: int) -> None:
    assert messages_of(stream_of(messages), chunk) == messages


@pytest.mark.parametrize("chunk", [1000, READ_BYTES - 1, READ_BYTES, LARGE])
@pytest.mark.parametrize("size", [JOINED_BYTES_MAX + 1, READ_BYTES - 20, READ_BYTES, LARGE])
def test_large_frames_come_between_small_ones(size: int, chunk: int) -> None:
    large = random.Random(size).randbytes(size)
    messages = [[b"first"], [b"head", large, b"", large], [b"last"]]
    assert messages_of(stream_of(messages), chunk) == messages


def test_large_frames_are_not_copied_to_be_sent() -> None:
    writer, large = PacketWriter(), bytearray(JOINED_BYTES_MAX + 1)
    writer.put([b"head", large])
    assert any(piece.obj is large for piece in writer.pieces())


def test_more_frames_than_a_read_holds_come_whole() -> None:
    messages = [[b"x"] * (READ_BYTES // 8)]
    assert messages_of(stream_of(messages), READ_BYTES) == messages

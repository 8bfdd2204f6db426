"""Frames through a stream of bytes, cut anywhere."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.errors import WireError
from penstock.shared.wire.tensors import Buffer
from penstock.worker.job_line.packets import (
    GROWN_FROM_BYTES,
    JOINED_BYTES_MAX,
    READ_BYTES,
    PacketReader,
    PacketWriter,
)

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


HOSTILE = {
    "more frames than bytes": struct.pack("<QI", 12, 2**32 - 1) + bytes(8),
    "frames beyond the end": struct.pack("<QIQ", 12, 1, 2**63),
    "frames that leave something": struct.pack("<QIQ", 14, 1, 1) + b"xy",
    "shorter than its head": struct.pack("<QI", 3, 0),
    "a million empty frames": struct.pack("<QI", 4 + 8_000_000, 1_000_000) + bytes(8_000_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_packets_that_do_not_add_up_are_refused_at_a_cost_in_proportion(kind: str) -> None:
    stream = HOSTILE[kind]
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="packet"):
            messages_of(stream, READ_BYTES)
        assert tracemalloc.get_traced_memory()[1] <= 3 * len(stream) + 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_packet_that_claims_more_than_comes_takes_room_for_what_came() -> None:
    tracemalloc.start()
    try:
        assert messages_of(struct.pack("<QI", 2**40, 1) + bytes(READ_BYTES), READ_BYTES) == []
        assert tracemalloc.get_traced_memory()[1] <= GROWN_FROM_BYTES + 8 * READ_BYTES
    finally:
        tracemalloc.stop()


def test_a_packet_that_outgrows_its_room_comes_whole() -> None:
    large = random.Random(1).randbytes(1024) * (3 * GROWN_FROM_BYTES // 1024)
    assert messages_of(stream_of([[b"head", large], [b"last"]]), READ_BYTES) == [
        [b"head", large],
        [b"last"],
    ]


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_stream_raises_only_wire_errors(stream: bytes, size: int) -> None:
    with suppress(WireError):
        messages_of(struct.pack("<Q", size) + stream, READ_BYTES)

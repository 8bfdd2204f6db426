"""Whatever claims to be an envelope or a job costs in proportion to its bytes, and is refused."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.errors import WireError
from penstock.shared.jobs.payload import JobInput, pack_input, unpack_input, unpack_result
from penstock.shared.wire.codec import FRAMES_MAX, decode, encode, envelopes
from penstock.shared.wire.messages import (
    Cancel,
    Chunk,
    Envelope,
    Final,
    Message,
    Nack,
    NackReason,
    Request,
)
from penstock.shared.wire.packed import PLAIN_ARRAY_MAX, PLAIN_BYTES_MAX, SPARE_BYTES, unpack
from penstock.shared.wire.tensors import Tensor, array_from_tensor
from tests.unit.shared.hostile_msgpack import array, nested

pytestmark = pytest.mark.costly

MANY = 400_000
SECONDS_MAX = 3.0
"""Of processor time, interpreted and on a slow machine; what is refused took up to a minute."""


def envelope(messages: bytes) -> bytes:
    return b"\x93\x01\xa1g" + messages


def request(inputs: bytes, outputs: bytes = b"\x90", parameters: bytes = b"\x90") -> bytes:
    return envelope(b"\x91\x9a\x02\x01\x02\x05\xc2\xa0" + inputs + outputs + parameters + b"\0")


def tensor(shape: list[int], data: object, datatype: str = "FP32", name: str = "x") -> bytes:
    packed: bytes = msgpack.packb([name, datatype, shape, data])
    return request(b"\x91" + packed)


EMPTY_TENSOR = b"\x94\xa0\xa5BYTES\x91\0\xc4\0"
FINAL = b"\x97\x08\x01\x90\xc0\0\0\0"
LONG_NAME = "\0" * 2_000_000

HEADERS: dict[str, bytes] = {
    "arrays in arrays": nested(20_000),
    "arrays in arrays, within a message": request(nested(20_000)),
    "long arrays in arrays": nested(MANY, depth=200),
    "empty maps": array(MANY, b"\x80"),
    "empty maps for messages": envelope(array(MANY, b"\x80")),
    "maps": array(MANY, b"\x81\x01\x01"),
    "extensions": array(MANY, b"\xd4\x05a"),
    "timestamps": array(MANY, b"\xd6\xffaaaa"),
    "arrays of one": envelope(array(MANY, b"\x91\xc0")),
    "tensors": request(array(MANY, EMPTY_TENSOR)),
    "an answer's tensors": envelope(
        b"\x91\x97\x08\x01" + array(MANY, EMPTY_TENSOR) + b"\xc0\0\0\0"
    ),
    "a chunk's tensors": envelope(b"\x91\x94\x07\x01\x01" + array(MANY, EMPTY_TENSOR)),
    "messages": envelope(array(2 * MANY, b"\x92\x03\x01")),
    "drains": envelope(array(2 * MANY, b"\x91\x04")),
    "answers": envelope(array(MANY, FINAL)),
    "outputs asked for": request(b"\x90", array(MANY, b"\xa2xy")),
    "parameters": request(b"\x90", b"\x90", array(MANY, b"\x92\xa2ab\x01")),
    "sizes": request(b"\x91\x94\xa1x\xa4FP32" + array(MANY, b"\x01") + b"\xc4\0"),
    "a kind that is long": envelope(b"\x91\x91" + array(MANY, b"\xcd\x04\x00")),
    "a version that is long": b"\x93" + array(MANY, b"\xcd\x04\x00") + b"\xa1g\x90",
    "an attempt that is long": envelope(b"\x91\x92\x03" + array(MANY, b"\xa3abc")),
    "an error's code that is long": envelope(
        b"\x91\x97\x08\x01\x90\x92" + msgpack.packb(LONG_NAME) + b"\xa0\0\0\0"
    ),
    "a name that is long": tensor([2], b"1", name=LONG_NAME),
    "a size that is huge": tensor([2**64 - 1], b"1234"),
    "sizes that are huge": tensor([2**63] * 32, b"1234"),
    "sizes beside zero": tensor([0, 2**40], b""),
    "huge sizes beside zero": tensor([0, *[2**63] * 31], b""),
    "rows of nothing": tensor([2**62, 0], b""),
    "a size below zero": tensor([-1, -4], b"1234" * 4),
    "a size that is no number": tensor([2.0], b"12345678"),  # type: ignore[list-item]
    "texts that are not there": tensor([2**40], bytes(4000), "BYTES"),
    "more texts than bytes": tensor([1001], bytes(4000), "BYTES"),
    "texts of rows of nothing": tensor([2**62, 0], b"", "BYTES"),
    "cut": request(array(MANY, EMPTY_TENSOR))[:-5],
    "an array that claims more": b"\xdd\xff\xff\xff\xff",
    "bytes that claim more": b"\x92\x01\xc6\xff\xff\xff\xff",
}


def costs(run: Callable[[], object]) -> tuple[int, float]:
    """The peak of memory in bytes, and processor time in seconds, until it is refused."""
    began_s = time.process_time()
    with pytest.raises(WireError):
        run()
    took_s = time.process_time() - began_s
    tracemalloc.start()
    try:
        with pytest.raises(WireError) as caught:
            run()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    return peak, took_s


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_envelope_is_refused_at_a_cost_in_proportion(kind: str) -> None:
    header = HEADERS[kind]
    peak, took_s = costs(lambda: decode([memoryview(header)]))
    assert peak <= 3 * len(header) + SPARE_BYTES
    assert took_s < SECONDS_MAX


@pytest.mark.parametrize(
    "kind", ["arrays in arrays", "empty maps", "tensors", "parameters", "rows of nothing"]
)
def test_a_job_whose_envelope_is_hostile_is_refused_at_a_cost_in_proportion(kind: str) -> None:
    body = msgpack.packb([1, "", HEADERS[kind]])
    peak, took_s = costs(lambda: unpack_input(body))
    assert peak <= 3 * len(body) + SPARE_BYTES
    assert took_s < SECONDS_MAX


BODIES: dict[str, bytes] = {
    "arrays in arrays": nested(20_000),
    "empty maps": array(MANY, b"\x80"),
    "frames": b"\xdd" + struct.pack(">I", 2 * MANY + 2) + b"\x01\xa0" + b"\xc4\0" * (2 * MANY),
    "frames that are none": b"\x93\x01\xa0" + array(MANY, b"\x80"),
    "texts for frames": b"\x94\x01\xa0\xa1x\xa1y",
    "a client's id that is none": b"\x93\x01" + array(MANY, b"\x91\xc0") + b"\xc4\0",
    "a version that is none": b"\x93" + array(MANY, b"\x91\xc0") + b"\xa0\xc4\0",
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_hostile_job_is_refused_at_a_cost_in_proportion(kind: str) -> None:
    for read in (unpack_input, unpack_result):
        peak, took_s = costs(lambda read=read: read(BODIES[kind]))  # type: ignore[misc]
        assert peak <= 3 * len(BODIES[kind]) + SPARE_BYTES
        assert took_s < SECONDS_MAX


def test_what_is_just_short_enough_to_be_read_without_a_look_costs_no_more() -> None:
    deep = nested(PLAIN_ARRAY_MAX, depth=1023)
    header = deep + b"\x80" * (PLAIN_BYTES_MAX - len(deep))
    peak, _ = costs(lambda: decode([header]))
    assert peak <= 3 * len(header) + SPARE_BYTES


def test_texts_of_a_tensor_are_counted_before_they_are_made() -> None:
    data = bytes(4 * MANY)
    for count in (MANY + 1, 2**40):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match="BYTES elements"):
                array_from_tensor(Tensor("t", "BYTES", (count,), data))
            assert tracemalloc.get_traced_memory()[1] < 64 * 1024
        finally:
            tracemalloc.stop()


def test_texts_of_a_tensor_cost_what_they_may() -> None:
    data = bytes(4 * MANY)
    tracemalloc.start()
    try:
        array_from_tensor(Tensor("t", "BYTES", (MANY,), data))
        assert tracemalloc.get_traced_memory()[1] <= 64 * MANY
    finally:
        tracemalloc.stop()


def test_frames_beyond_all_reason_are_refused() -> None:
    with pytest.raises(WireError, match="frames"):
        decode([encode(Envelope("g", ()))[0], *[b""] * FRAMES_MAX])


small = Tensor("x", "FP32", (1, 1), bytes(4))
LARGE: dict[str, Message] = {
    "wide": Request(
        1, 2, tuple([Tensor(f"c{at}", "FP32", (1, 1), bytes(4)) for at in range(30_000)])
    ),
    "answered widely": Final(1, (small,) * 30_000),
    "of many parts": Chunk(1, 2, tuple([Tensor("x", "INT64", (999,), bytes(7992))] * 2000)),
    "asking for much": Request(1, 2, (), outputs=tuple([f"output {at}" for at in range(65_000)])),
    "with parameters": Request(
        1, 2, (), parameters=tuple([(f"p{at}", 0.5) for at in range(65_000)])
    ),
    "telling much": Final(
        1, (Tensor("t", "BYTES", (1,), struct.pack("<I", 8000) + b"x" * 8000),) * 999
    ),
}


@pytest.mark.parametrize("kind", LARGE)
def test_large_messages_come_as_they_were_sent(kind: str) -> None:
    sent = Envelope("g", (LARGE[kind],))
    frames = encode(sent)
    assert len(frames[0]) > PLAIN_BYTES_MAX
    assert decode(frames) == sent


def test_many_messages_come_as_they_were_sent() -> None:
    for count in (PLAIN_ARRAY_MAX, PLAIN_ARRAY_MAX + 1, 50_000):
        sent = Envelope("g", tuple([Cancel(2**40 + at) for at in range(count)]))
        assert decode(encode(sent)) == sent


def test_envelopes_that_were_put_together_have_room_for_each() -> None:
    sent = Envelope("", (LARGE["wide"],) * 3)
    frames = encode(sent)
    with pytest.raises(WireError, match="too many values"):
        decode(frames)
    assert decode(frames, 3) == sent


@pytest.mark.parametrize(
    "sent",
    [
        [Request(at, 2, tuple([Tensor(f"c{i}", "FP32", (1,), bytes(4)) for i in range(999)]))
         for at in range(64)],
        [Final(at, (Tensor("y", "FP32", (1, 2000), bytes(8000)),)) for at in range(128)],
        [Nack(at % 99, NackReason.FULL) for at in range(300_000)],
        [LARGE["wide"], Cancel(1), LARGE["wide"], Cancel(2)],
    ],
    ids=["wide requests", "large answers", "short messages", "more than fits in one"],
)  # fmt: skip
def test_many_messages_leave_in_envelopes_that_are_read(sent: list[Message]) -> None:
    parts = envelopes("g", sent)
    assert len(parts) > 1
    assert [message for part, _ in parts for message in part] == sent
    for part, frames in parts:
        assert decode(frames) == Envelope("g", tuple(part))


def test_few_messages_leave_in_one_envelope() -> None:
    sent = [Cancel(1), Cancel(2)]
    assert envelopes("g", sent) == [(sent, encode(Envelope("g", tuple(sent))))]


def test_a_wide_job_is_read() -> None:
    wide = LARGE["wide"]
    assert isinstance(wide, Request)
    assert unpack_input(pack_input(JobInput("", wide))).request == wide


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary() | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary()),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)  # fmt: skip


@given(values | st.lists(values), st.integers(0, 5), st.integers(0, 255))
def test_what_is_gone_through_first_is_read_to_the_same_or_refused(
    value: object, cut: int, byte: int
) -> None:
    """Long bytes are checked and short ones are not: both must agree on what they hold."""
    short = msgpack.packb(value)
    short = short[: len(short) - cut] + bytes([byte]) * (cut // 2)
    filler = bytes(PLAIN_BYTES_MAX)
    long = b"\x92" + msgpack.packb(filler) + short
    try:
        expected = unpack(short, use_list=True)
    except (ValueError, msgpack.exceptions.UnpackException, WireError):
        with pytest.raises((ValueError, msgpack.exceptions.UnpackException, WireError)):
            unpack(long, use_list=True)
        return
    with suppress(WireError):
        assert repr(unpack(long, use_list=True)) == repr([filler, expected])


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_after_a_long_beginning_raise_only_wire_errors(data: bytes, inner: bool) -> None:
    long = b"\x93\x01\xa1g\x92" + msgpack.packb(bytes(PLAIN_BYTES_MAX)) + data
    with suppress(WireError):
        decode([long] if inner else [data, long])
    with suppress(WireError):
        unpack_input(long)

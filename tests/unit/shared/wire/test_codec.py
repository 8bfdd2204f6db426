"""The wire format: lossless, strict, and unchanged by accident."""

from __future__ import annotations

import contextlib

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.errors import ErrorCode, WireError
from penstock.shared.wire.codec import INLINE_BYTES_MAX, decode, encode
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
    Probe,
    Proceed,
    Request,
    SuspectTurn,
)
from penstock.shared.wire.tensors import Tensor, encode_bytes_elements, tensor_from_array

names = st.text(max_size=20)
uints = st.integers(0, 2**63 - 1)
scalars = st.one_of(
    st.text(max_size=10),
    st.booleans(),
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    if draw(st.booleans()):
        elements = draw(st.lists(st.binary(max_size=8), max_size=4))
        data = encode_bytes_elements(elements)
        return Tensor(draw(names), "BYTES", (len(elements),), data)
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    datatype = draw(st.sampled_from(["FP32", "INT64", "BOOL", "UINT8", "FP16"]))
    width = {"FP32": 4, "INT64": 8, "BOOL": 1, "UINT8": 1, "FP16": 2}[datatype]
    size = int(np.prod(shape)) * width
    return Tensor(draw(names), datatype, shape, draw(st.binary(min_size=size, max_size=size)))


tensor_tuples = st.lists(tensors(), max_size=3).map(tuple)
requests = st.builds(
    Request,
    attempt_id=uints,
    budget_us=uints,
    inputs=tensor_tuples,
    priority=st.integers(1, 9),
    suspect=st.booleans(),
    traceparent=names,
    outputs=st.lists(names, max_size=3).map(tuple),
    parameters=st.lists(st.tuples(names, scalars), max_size=3).map(tuple),
    queue_budget_us=uints,
)
failures = st.one_of(st.none(), st.builds(Failure, st.sampled_from(ErrorCode), names))
messages = st.one_of(
    st.builds(Probe, st.booleans()),
    st.just(Drain()),
    requests,
    st.builds(Cancel, uints),
    st.builds(Proceed, uints),
    st.builds(SuspectTurn, uints),
    st.builds(Alone, st.booleans()),
    st.builds(Hello, names, names, names, names, names, st.binary(), st.binary(), st.booleans()),
    st.builds(Load, uints, uints, uints, st.lists(uints, max_size=3).map(tuple)),
    st.builds(Chunk, uints, uints, tensor_tuples),
    st.builds(Final, uints, tensor_tuples, failures, uints, uints, uints),
    st.builds(Nack, uints, st.sampled_from(NackReason)),
)
envelopes = st.builds(Envelope, names, st.lists(messages, max_size=5).map(tuple))


@given(envelopes)
def test_decoding_gives_back_what_was_encoded(envelope: Envelope) -> None:
    assert decode([bytes(frame) for frame in encode(envelope)]) == envelope


def test_what_was_raised_is_not_told_to_gateways() -> None:
    failure = Failure(ErrorCode.MODEL_ERROR, "failed to execute", "KeyError: 'a secret'")
    frames = [bytes(frame) for frame in encode(Envelope("", (Final(1, failure=failure),)))]
    assert b"secret" not in b"".join(frames)
    (final,) = decode(frames).messages
    assert isinstance(final, Final)
    assert final.failure == Failure(ErrorCode.MODEL_ERROR, "failed to execute")


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_arbitrary_bytes_raise_nothing_but_wire_errors(frames: list[bytes]) -> None:
    with contextlib.suppress(WireError):
        decode(frames)


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**40), st.text(max_size=5), st.binary()),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=30,
)


@given(st.integers(0, 12), st.lists(json_like, max_size=9), st.lists(st.binary(), max_size=2))
def test_well_formed_msgpack_of_the_wrong_form_raises_wire_errors(
    kind: int, fields: list[object], frames: list[bytes]
) -> None:
    header = msgpack.packb([1, "gateway", [[kind, *fields]]])
    with contextlib.suppress(WireError):
        decode([header, *frames])


@given(envelopes, st.data())
def test_a_flipped_or_cut_header_never_crashes(envelope: Envelope, data: st.DataObject) -> None:
    header, *rest = [bytes(frame) for frame in encode(envelope)]
    position = data.draw(st.integers(0, len(header) - 1))
    cut = data.draw(st.booleans())
    broken = (
        header[:position]
        if cut
        else header[:position] + bytes([header[position] ^ 0xFF]) + header[position + 1 :]
    )
    with contextlib.suppress(WireError):
        decode([broken, *rest])


def test_large_tensors_travel_uncopied_in_frames_of_their_own() -> None:
    array = np.arange(INLINE_BYTES_MAX, dtype=np.float32)
    small = Tensor("s", "FP32", (1,), b"\0\0\0\0")
    frames = encode(Envelope("g", (Request(1, 2, (small, tensor_from_array("x", array), small)),)))
    assert len(frames) == 2
    assert np.shares_memory(np.frombuffer(frames[1], dtype=np.float32), array)
    (request,) = decode(frames).messages
    assert isinstance(request, Request)
    assert [tensor.name for tensor in request.inputs] == ["s", "x", "s"]


def _envelope_with(tensor: list[object]) -> list[bytes]:
    request = [2, 1, 1000, 5, False, "", [tensor], [], [], 0]
    return [msgpack.packb([1, "g", [request]])]


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (["x", "FP32", [2], b"123"], "expected 8 bytes, got 3"),
        (["x", "FP33", [1], b"1234"], "unknown datatype"),
        (["x", "FP32", [-1], b""], "impossible shape"),
        (["x", "FP32", [2**62, 2**62], b""], "bytes"),
        (["x", "FP32", [1] * 33, b"1234"], "impossible shape"),
        (["x", "FP32", [1], 1], "frame"),
        (["x", "FP32", [1], "text"], "data of type str"),
    ],
)
def test_tensors_that_do_not_add_up_are_refused(tensor: list[object], words: str) -> None:
    with pytest.raises(WireError, match=words):
        decode(_envelope_with(tensor))


def test_frames_that_belong_to_no_tensor_are_refused() -> None:
    frames = [bytes(frame) for frame in encode(Envelope("g", (Probe(),)))]
    with pytest.raises(WireError, match="belong to no tensor"):
        decode([*frames, b"more"])


def test_another_protocol_version_is_refused() -> None:
    with pytest.raises(WireError, match="protocol version 2, expected 1"):
        decode([msgpack.packb([2, "g", []])])


GOLDEN: list[tuple[Message, str]] = [
    (Probe(known=True), "9301a26731919201c3"),
    (Cancel(7), "9301a2673191920307"),
    (Alone(active=True), "9301a2673191920cc3"),
    (Nack(7, NackReason.FULL), "9301a267319193090702"),
    (
        Hello("r", "w", "m", "1", "m/1", b"{}", b"", takes_calls=False),
        "9301a2673191 9905 a172 a177 a16d a131 a36d2f31 c4027b7d c400 c2".replace(" ", ""),
    ),
    (Load(1, 2, 300, (7,)), "9301a2673191950601 02cd012c 9107".replace(" ", "")),
    (
        Request(1, 2, (Tensor("x", "BOOL", (2,), b"\1\0"),), parameters=(("k", 1),)),
        "9301a26731919a02010205c2a09194a178a4424f4f4c9102c40201009091 92a16b01 00".replace(" ", ""),
    ),
    (
        Final(1, (), Failure(ErrorCode.MODEL_ERROR, "m"), 3, 4, 5),
        "9301a26731919708019092ab6d6f64656c5f6572726f72a16d030405",
    ),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda value: type(value).__name__)
def test_golden_bytes_guard_compatibility(message: Message, golden: str) -> None:
    envelope = Envelope("g1", (message,))
    assert bytes(encode(envelope)[0]).hex() == golden
    assert decode([bytes.fromhex(golden)]) == envelope

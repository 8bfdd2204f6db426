"""Every message between a loop and its job port comes as it was sent, and nothing else is taken."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, WireError
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.record import Content
from penstock.shared.wire.codec import encode as frames_of
from penstock.shared.wire.messages import Envelope, Failure, Final, Nack, NackReason, Request
from penstock.shared.wire.packed import SPARE_BYTES
from penstock.shared.wire.tensors import Tensor, tensor_from_array
from penstock.worker.job_line.messages import (
    Alive,
    Began,
    Begin,
    Ended,
    FromPort,
    Gone,
    Hinted,
    InputFetched,
    Job,
    Leased,
    LeaseTerms,
    Leave,
    Pull,
    Told,
    ToPort,
)
from penstock.worker.job_line.wire import decode, encode
from tests.unit.shared.hostile_msgpack import array, nested

SPEC = TensorSpec(name="x", datatype="FP64", shape=(-1,))
INTERFACE = ModelInterface(inputs=(SPEC,), outputs=(), max_batch_size=4, platform="test")
TERMS = LeaseTerms("m", "m/1", "replica", lease_s=15.0, heartbeat_s=3.0, store_bytes_max=1 << 30)


def tensor(size: int) -> Tensor:
    made = tensor_from_array("x", np.arange(size, dtype=np.float64))
    return Tensor(made.name, made.datatype, made.shape, bytes(made.data))


def request(number: int, size: int = 3) -> Request:
    return Request(number, 0, (tensor(size),), 7, True, "", ("y",), (("p", 1.5), ("q", None)))


MESSAGES: list[ToPort | FromPort] = [
    Begin(TERMS, "1", "redis://h", "penstock", "", INTERFACE, 17, inherits=True),
    Pull(4, idle=True),
    Began([1, 2], 1.5, 100.25),
    Told(3, Progress(0.5, "half", estimated=False)),
    Told(3, (Content("image/png", 4), b"\x89PNG")),
    Told(3, (Content("text/plain", 0), b"")),
    Ended((Final(1, (tensor(3),), None, 5, 6, 7), Nack(2, NackReason.DRAINING)), 12.5),
    Ended((Final(1, (tensor(100_000),)), Final(2, failure=Failure(ErrorCode.INTERNAL, "no"))), 0.5),
    Ended((Final(3, failure=Failure(ErrorCode.MODEL_ERROR, "no", "KeyError: 'width'")),), 0.5),
    Leave(),
    Hinted(),
    Leased(
        [1, 2, 3],
        [Job(1, request(1), 2.5, "a"), Job(3, request(3, 10_000), None, "b")],
        True,
        False,
    ),
    Leased([], [], False, True),
    InputFetched(Job(4, request(4, 1_000_000), 1.0, "c")),
    Gone(9),
    Alive(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_as_it_was_sent(message: ToPort | FromPort) -> None:
    assert decode(encode(message)) == message


def test_large_tensors_are_views_at_both_ends() -> None:
    message = InputFetched(Job(4, request(4, 100_000)))
    frames = encode(message)
    assert frames[-1] is message.job.request.inputs[0].data
    received = decode(frames)
    assert isinstance(received, InputFetched)
    assert received.job.request.inputs[0].data is frames[-1]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=4))
def test_other_bytes_are_refused(frames: list[bytes]) -> None:
    with suppress(WireError):
        decode(frames)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_is_another_or_refused(
    message: ToPort | FromPort, data: st.DataObject
) -> None:
    frames = [bytes(frame) for frame in encode(message)]
    at = data.draw(st.integers(0, len(frames) - 1))
    cut = data.draw(st.integers(0, len(frames[at])))
    frames[at] = frames[at][:cut]
    with suppress(WireError):
        decode(frames)


HEADS = {
    "arrays in arrays": nested(20_000),
    "empty maps": array(400_000, b"\x80"),
    "numbers held": b"\x95\x0b" + array(400_000, b"\x91\xc0") + b"\x90\xc2\xc2",
    "answers that are not there": b"\x93\x04\x01\xcf" + b"\xff" * 8,
}


@pytest.mark.parametrize("kind", HEADS)
def test_a_hostile_head_is_refused_at_a_cost_in_proportion(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            decode([HEADS[kind], *frames_of(Envelope("", ()))])
        assert tracemalloc.get_traced_memory()[1] <= 3 * len(HEADS[kind]) + SPARE_BYTES
    finally:
        tracemalloc.stop()


def test_wide_jobs_come_together_as_they_were_sent() -> None:
    wide = Request(
        1, 0, tuple([Tensor(f"c{at}", "FP32", (1, 1), bytes(4)) for at in range(30_000)])
    )
    jobs = [Job(number, wide, None, "a") for number in range(3)]
    assert decode(encode(Leased([0, 1, 2], jobs, True, False))) == Leased(
        [0, 1, 2], jobs, True, False
    )
    ended = Ended(tuple([Final(number, wide.inputs) for number in range(3)]), 12.5)
    assert decode(encode(ended)) == ended

"""Merging requests into a batch and splitting its outputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.codec import INLINE_BYTES_MAX
from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import NUMPY_OF, array_from_tensor, tensor_from_array
from penstock.worker.replica.assembly import OutputShapeError, copied_bytes, merge, split

INTERFACE = ModelInterface(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 2)),),
    outputs=(
        TensorSpec(name="y", datatype="FP32", shape=(-1, 2)),
        TensorSpec(name="n", datatype="INT64", shape=(-1,)),
    ),
    max_batch_size=64,
    platform="test",
)


def request(rows: int, first: int, outputs: tuple[str, ...] = ()) -> Request:
    array = np.arange(first, first + 2 * rows, dtype=np.float32).reshape(rows, 2)
    return Request(first, 1, (tensor_from_array("x", array),), outputs=outputs)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.one_of(st.none(), st.just(32)))
def test_each_request_gets_exactly_its_own_rows(rows: list[int], static: int | None) -> None:
    requests = [request(count, 100 * index) for index, count in enumerate(rows)]
    inputs = merge(requests, static)
    assert inputs["x"].shape[0] == (static or sum(rows))
    outputs = [inputs["x"] * 2, inputs["x"][:, 0].astype(np.int64)]
    shares = split(outputs, requests, INTERFACE, static)
    for share, sent in zip(shares, requests, strict=True):
        doubled, first = (array_from_tensor(tensor) for tensor in share)
        original = array_from_tensor(sent.inputs[0])
        assert (doubled == original * 2).all()
        assert first.tolist() == original[:, 0].tolist()


@given(
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    inner=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    datatype=st.sampled_from(["FP32", "FP16", "INT64", "BOOL", "UINT8", "BYTES"]),
    wide=st.booleans(),
    turned=st.booleans(),
    spare=st.integers(0, 2),
)
@settings(deadline=None)
def test_whatever_the_type_and_the_layout_rows_come_back(
    rows: list[int],
    inner: tuple[int, ...],
    datatype: str,
    wide: bool,
    turned: bool,
    spare: int,
) -> None:
    """`wide`: shares beyond what travels inline; `turned`: not row-major; `spare`: padding."""
    inner = (INLINE_BYTES_MAX,) if wide and datatype != "BYTES" else inner
    interface = ModelInterface(
        inputs=(TensorSpec(name="x", datatype=datatype, shape=(-1, *[-1] * len(inner))),),
        outputs=(TensorSpec(name="y", datatype=datatype, shape=(-1, *[-1] * len(inner))),),
        max_batch_size=64,
        platform="test",
    )
    batch = np.arange(math.prod((sum(rows), *inner))).reshape((sum(rows), *inner)) % 251
    if datatype == "BYTES":
        batch = batch.astype(str).astype(object)
    batch = batch.astype(NUMPY_OF[datatype])
    ends = np.cumsum(rows)[:-1]
    parts = np.split(batch, ends)
    requests = [Request(0, 1, (tensor_from_array("x", part),)) for part in parts]
    merged = merge(requests)["x"]
    as_sent = np.concatenate([array_from_tensor(request.inputs[0]) for request in requests])
    assert merged.dtype == as_sent.dtype
    assert np.array_equal(merged, as_sent)
    output = np.concatenate([batch, np.repeat(batch[-1:], spare if len(batch) else 0, axis=0)])
    output = np.asfortranarray(output) if turned else output
    if len(output) != sum(rows):
        with pytest.raises(OutputShapeError, match=f"for a batch of {sum(rows)} rows"):
            split([output], requests, interface)
    padded = len(output) if len(output) != sum(rows) else None
    shares = split([output], requests, interface, padded)
    for (share,), part in zip(shares, parts, strict=True):
        assert (share.name, share.datatype, share.shape) == ("y", datatype, part.shape)
        assert bytes(share.data) == bytes(tensor_from_array("y", part).data)


def test_a_large_tensor_alone_is_not_copied() -> None:
    array = np.zeros((1, INLINE_BYTES_MAX), np.float32)
    alone = [Request(0, 1, (tensor_from_array("x", array),))]
    merged = merge(alone)["x"]
    assert np.shares_memory(merged, array)
    wide = INTERFACE.model_copy(update={"outputs": INTERFACE.outputs[:1]})
    ((share,),) = split([merged], alone, wide)
    assert np.shares_memory(np.frombuffer(share.data, np.float32), array)


def test_copied_bytes_are_those_that_were_copied() -> None:
    small = [request(1, 0), request(2, 9)]
    batch = merge(small)
    shares = split([batch["x"], np.zeros(3, np.int64)], small, INTERFACE)
    assert copied_bytes(small, batch, shares) == 3 * 8 + 3 * 8 + 3 * 8
    large = np.zeros((1, INLINE_BYTES_MAX), np.float32)
    alone = [Request(0, 1, (tensor_from_array("x", large),))]
    wide = INTERFACE.model_copy(update={"outputs": INTERFACE.outputs[:1]})
    assert copied_bytes(alone, merge(alone), split([large], alone, wide)) == 0


def test_only_outputs_asked_for_are_given_in_the_order_asked() -> None:
    requests = [request(1, 0, ("n", "y")), request(1, 9, ("n",)), request(1, 20)]
    inputs = merge(requests)
    shares = split([inputs["x"], inputs["x"][:, 0].astype(np.int64)], requests, INTERFACE)
    assert [[tensor.name for tensor in share] for share in shares] == [
        ["n", "y"],
        ["n"],
        ["y", "n"],
    ]


def test_outputs_with_too_few_rows_are_an_error() -> None:
    requests = [request(1, 0), request(1, 9)]
    with pytest.raises(OutputShapeError, match="output 'y' has shape"):
        split([np.zeros((1, 2)), np.zeros(2)], requests, INTERFACE)

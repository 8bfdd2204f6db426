"""Merging requests into a batch and splitting its outputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.deployment import ModelInterface
from shared.messages import Request
from shared.tensors import TensorSpec, array_from_tensor, tensor_from_array
from worker.assembly import OutputShapeError, merge, split

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
    shares = split([inputs["x"] * 2, inputs["x"][:, 0].astype(np.int64)], requests, INTERFACE)
    for share, sent in zip(shares, requests, strict=True):
        doubled, first = (array_from_tensor(tensor) for tensor in share)
        original = array_from_tensor(sent.inputs[0])
        assert (doubled == original * 2).all()
        assert first.tolist() == original[:, 0].tolist()


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

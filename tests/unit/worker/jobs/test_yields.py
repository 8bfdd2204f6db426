"""What is progress, what is output, and what of it can be an answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.payload import RESULT_TYPE, unpack_result
from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from penstock.worker.jobs.yields import JSON_TYPE, output_of, progress_of

REQUEST = Request(0, 0, (tensor_from_array("x", np.zeros(1)),))


def interface(*outputs: TensorSpec, batches: bool = True) -> ModelInterface:
    return ModelInterface(
        inputs=(), outputs=outputs, max_batch_size=4 if batches else 0, platform="test"
    )


def spec(name: str, datatype: str, *inner: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *inner))


IMAGE = interface(spec("image", "FP32", 2, 2))
TEXT = interface(spec("text", "BYTES"))
TWO = interface(spec("a", "FP64"), spec("b", "INT64"))


def tensors(value: object, model: ModelInterface, request: Request = REQUEST) -> dict[str, Any]:
    output = output_of(value, request, model)
    assert output.content.media_type == RESULT_TYPE
    assert output.content.size_bytes == len(output.data)
    assert output.misfit == ""
    result = unpack_result(output.data)
    return {each.name: array_from_tensor(each).tolist() for each in result.final.outputs}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"progress": 0.25}, Progress(0.25)),
        ({"progress": 1, "message": "done"}, Progress(1.0, "done")),
        ({"progress": np.float32(0.5), "message": None}, Progress(0.5)),
        ({"progress": 0.5, "message": 3}, Progress(0.5, "3")),
        ({"progress": -1}, Progress(0.0)),
        ({"progress": 50}, Progress(1.0)),
        ({"progress": math.inf}, Progress(1.0)),
        ({"progress": 10**400}, Progress(1.0)),
        ({"progress": math.nan}, None),
        ({"progress": True}, None),
        ({"progress": "50%"}, None),
        ({"progress": [0.5]}, None),
        ({"progress": None}, None),
        ({"progress": 0.5, "message": ["x"]}, None),
        ({"progress": 0.5, "image": 1}, None),
        ({"message": "x"}, None),
        ({}, None),
        ("progress", None),
        (None, None),
    ],
)
def test_what_is_progress(value: object, expected: Progress | None) -> None:
    assert progress_of(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        {"image": np.ones((1, 2, 2), np.float32)},
        {"image": np.ones((2, 2))},
        {"image": [[1, 1], [1, 1]]},
        np.ones((1, 2, 2), np.float32),
        [[1.0, 1.0], [1.0, 1.0]],
        (np.ones((2, 2)),),
    ],
)
def test_one_row_comes_with_its_batch_dimension_or_without(value: object) -> None:
    assert tensors(value, IMAGE) == {"image": [[[1, 1], [1, 1]]]}


@pytest.mark.parametrize("value", ["é", {"text": "é"}, ["é"], "é".encode(), np.array(["é"])])
def test_text(value: object) -> None:
    assert tensors(value, TEXT) == {"text": ["é".encode()]}


@pytest.mark.parametrize("value", [[[1, 2.5]], ([[1, 2.5]],), {"text": [[1, 2.5]]}])
def test_a_text_is_its_own_whatever_numbers_are_beside_it(value: object) -> None:
    assert tensors(value, interface(spec("text", "BYTES", 2))) == {"text": [[b"1", b"2.5"]]}


def test_bytes_keep_their_zeros() -> None:
    assert tensors(b"a\0", TEXT) == {"text": [b"a\0"]}


def test_several_outputs_by_name_or_in_order() -> None:
    for value in ({"b": 2, "a": 1.5}, (1.5, 2), {"b": [2], "a": [1.5], "c": "more"}):
        assert tensors(value, TWO) == {"a": [1.5], "b": [2]}
    asked = Request(0, 0, REQUEST.inputs, outputs=("b",))
    assert tensors((1.5, 2), TWO, asked) == {"b": [2]}


def test_a_model_without_a_batch_dimension() -> None:
    model = interface(TensorSpec(name="y", datatype="FP32", shape=(2,)), batches=False)
    assert tensors(np.array([1.0, 2.0]), model) == {"y": [1, 2]}
    assert output_of(np.zeros((3, 2)), REQUEST, model).misfit


@dataclass
class Point:
    x: int


class Chunk:
    def model_dump(self) -> dict[str, str]:
        return {"delta": "a"}


class Odd:
    def __str__(self) -> str:
        return "odd"


class Refuses:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("needs a gradient")

    def __str__(self) -> str:
        return "refuses"


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(2000):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("some text", "some text"),
        ({"note": "x", "step": 3}, {"note": "x", "step": 3}),
        ([[1], [1, 2]], [[1], [1, 2]]),
        ({"image": np.ones(3)}, {"image": [1, 1, 1]}),
        ({"image": {"a": 1}}, {"image": {"a": 1}}),
        ({"image": [{"a": 1}]}, {"image": [{"a": 1}]}),
        ({1: np.float32(2)}, {"1": 2}),
        (Point(1), {"x": 1}),
        (Chunk(), {"delta": "a"}),
        (Odd(), "odd"),
        (Refuses(), "refuses"),
        (b"\xff", "�"),
        (None, None),
        ({"progress": math.nan}, {"progress": None}),
        (np.array([1 + 2j]), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_fits_no_tensor_is_json_and_no_answer(value: object, expected: object) -> None:
    output = output_of(value, REQUEST, IMAGE)
    assert output.content.media_type == JSON_TYPE
    assert output.content.size_bytes == len(output.data)
    assert output.misfit
    if expected is not None or value is None:
        assert json.loads(bytes(output.data)) == expected


@pytest.mark.parametrize("value", [2**100, "\ud800", deep(), {"a": {1, 2}}])
def test_what_json_cannot_say_is_told_somehow(value: object) -> None:
    assert json.loads(bytes(output_of(value, REQUEST, IMAGE).data))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)


@given(value=JUNK | st.fixed_dictionaries({"progress": JUNK}, optional={"message": JUNK}))
def test_nothing_that_is_yielded_is_an_error(value: object) -> None:
    progress = progress_of(value)
    if progress is not None:
        assert 0 <= progress.fraction <= 1
        return
    for model in (IMAGE, TEXT, TWO, interface()):
        output = output_of(value, REQUEST, model)
        assert output.content.size_bytes == len(output.data)
        assert (output.content.media_type == JSON_TYPE) == bool(output.misfit)

"""Large answers are written in slices beside the loop, to the same bytes."""

from __future__ import annotations

import math

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.oip.codec import build_response
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.tensors import slices as json_slices
from penstock.gateway.http.tensors.slices import SLICE_ELEMENTS, record_slices, tensor_slices
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.wire.tensors import AnyArray, Tensor, encode_bytes_elements, tensor_from_array
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, app_of, interface, serving, spec

GENERATOR = np.random.default_rng(7)
COUNT = 10 * SLICE_ELEMENTS + 3
FLOATS = GENERATOR.standard_normal(COUNT)
FLOATS[[0, SLICE_ELEMENTS - 1, SLICE_ELEMENTS, -1]] = [np.nan, np.inf, -np.inf, np.nan]
ARRAYS: list[AnyArray] = [
    FLOATS,
    FLOATS.astype(np.float32),
    GENERATOR.integers(-(2**62), 2**62, COUNT),
    GENERATOR.integers(0, 255, COUNT).astype(np.uint8),
    GENERATOR.integers(0, 2, COUNT).astype(np.bool_),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
@pytest.mark.parametrize("request_id", [None, "seven"])
def test_slices_are_the_bytes_of_the_whole(array: AnyArray, request_id: str | None) -> None:
    tensor = tensor_from_array("y", array)
    answer = InferenceAnswer(
        model="m", version="1", outputs=(tensor,), queue_s=0, infer_s=0, attempts=1
    )
    request = ParsedInfer(request_id, (), (), frozenset(), False, (), 5, None)
    entry = {"name": "y", "datatype": tensor.datatype, "shape": array.shape, "data": array}
    document = {"model_name": "m", "model_version": "1", "outputs": [entry]}
    if request_id is not None:
        document = {"model_name": "m", "model_version": "1", "id": request_id, "outputs": [entry]}
    whole = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    assert b"".join(bytes(part) for part in build_response(answer, request).parts) == whole


@pytest.mark.parametrize("direct", [True, False], ids=["short way", "asgi"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_large_answers_arrive_whole(direct: bool, coding: str) -> None:
    values = GENERATOR.standard_normal(COUNT)
    model = FakeModel(
        interface([spec("x", "FP32", -1)], [spec("y", "FP64", -1)]), lambda _: {"y": values}
    )
    service = FakeInference({"large": model})
    entry = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
    with (
        serving(app_of(service), direct=direct) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        for _ in range(2):
            response = client.post(
                "/v2/models/large/infer",
                json={"inputs": [entry]},
                headers={"accept-encoding": coding},
            )
            assert response.status_code == 200
            assert response.headers.get("content-encoding", "identity") == coding
            assert response.json()["outputs"][0]["data"] == values.tolist()


TEXT = st.text('aé"\\\n€😀', max_size=5)
SHAPES = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@given(SHAPES, st.data(), st.integers(4, 12), st.integers(1, 5))
def test_texts_in_slices_are_what_they_are(
    shape: tuple[int, ...], data: st.DataObject, slice_bytes: int, slice_elements: int
) -> None:
    count = math.prod(shape)
    texts = data.draw(st.lists(TEXT, min_size=count, max_size=count))
    tensor = Tensor("y", "BYTES", shape, encode_bytes_elements(texts))
    column = Tensor("n", "INT64", shape, np.arange(count).tobytes())
    array = np.empty(count, np.object_)
    array[:] = texts
    whole = array.reshape(shape).tolist()
    numbers = np.arange(count).reshape(shape).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_slices, "SLICE_BYTES", slice_bytes)
        patch.setattr(json_slices, "SLICE_ELEMENTS", slice_elements)
        assert b"".join(tensor_slices(tensor, shape)) == orjson.dumps(whole)
        assert b"".join(tensor_slices(column, shape)) == orjson.dumps(numbers)
        records = [{"y": y, "n": n} for y, n in zip(whole, numbers, strict=True)]
        assert b"".join(record_slices([tensor, column])) == orjson.dumps(records)


@pytest.mark.parametrize("data", [b"", b"\1\0\0\0", b"\1\0\0\0ab", b"\1\0\0\0a" * 3])
def test_texts_that_are_not_as_many_as_they_should_be(data: bytes) -> None:
    tensor = Tensor("y", "BYTES", (2,), data)
    for slices in (tensor_slices(tensor, (2,)), record_slices([tensor])):
        with pytest.raises(ValueError, match="tensor 'y'"):
            list(slices)

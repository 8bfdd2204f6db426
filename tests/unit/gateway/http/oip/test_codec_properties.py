"""Whatever is sent is read or refused, and what is read comes back as it was sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.oip.codec import build_response, parse_infer
from penstock.gateway.http.payload import EncodedResponse
from penstock.gateway.http.tensors.json_tensors import may_hold_booleans
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import (
    NUMPY_OF,
    AnyArray,
    Tensor,
    array_from_tensor,
    tensor_from_array,
)
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import DOUBLE, TEXTS, interface, spec, x_input

EXAMPLES = examples(150)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(["x", "y", "n", "text", "FP32", "INT64", "BYTES", "priority", "timeout"])
TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "name": NAMES | ANY_JSON,
        "datatype": NAMES | ANY_JSON,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | ANY_JSON,
        "data": st.lists(st.integers(-5, 300) | SCALARS, max_size=9) | ANY_JSON,
        "parameters": st.dictionaries(
            st.sampled_from(["binary_data_size", "binary_data", "classification"]),
            st.integers(-1, 20) | SCALARS,
        )
        | ANY_JSON,
    },
)
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "id": ANY_JSON,
        "inputs": st.lists(TENSOR, max_size=3) | ANY_JSON,
        "outputs": st.lists(TENSOR, max_size=3) | ANY_JSON,
        "parameters": st.dictionaries(NAMES | st.text(max_size=5), SCALARS) | ANY_JSON,
    },
)
INTERFACES = st.sampled_from([DOUBLE.interface, TEXTS.interface])


def read_or_refused(body: bytes, header_length: int | None, model: ModelInterface) -> None:
    refused: PenstockError | None = None
    try:
        parsed = parse_infer(body, header_length, model)
    except PenstockError as error:
        refused = error
    if refused is not None:
        assert refused.code is ErrorCode.INVALID_INPUT
        assert 0 < len(refused.message) < 1000
        return
    assert [tensor.name for tensor in parsed.inputs] == [one.name for one in model.inputs]
    for tensor in parsed.inputs:
        assert array_from_tensor(tensor).shape == tensor.shape
        assert 1 <= tensor.rows <= model.max_batch_size


@EXAMPLES
@given(ANY_JSON | DOCUMENT, INTERFACES)
def test_any_json_is_read_or_refused(document: Any, model: ModelInterface) -> None:
    read_or_refused(orjson.dumps(document), None, model)


@EXAMPLES
@given(TENSOR)
def test_any_change_to_a_good_tensor_is_read_or_refused(changes: dict[str, Any]) -> None:
    body = orjson.dumps({"inputs": [x_input(**changes)]})
    read_or_refused(body, None, DOUBLE.interface)


@EXAMPLES
@given(DOCUMENT, st.binary(max_size=64), st.integers(-5, 5), INTERFACES)
def test_any_binary_is_read_or_refused(
    document: Any, binary: bytes, off_by: int, model: ModelInterface
) -> None:
    text = orjson.dumps(document)
    read_or_refused(text + binary, len(text) + off_by, model)
    read_or_refused(text + binary, len(text), model)


@EXAMPLES
@given(st.binary(max_size=200), st.none() | st.integers(-(2**70), 2**70) | st.integers(0, 200))
def test_any_bytes_are_read_or_refused(body: bytes, header_length: int | None) -> None:
    read_or_refused(body, header_length, DOUBLE.interface)


@st.composite
def arrays(draw: st.DrawFn) -> tuple[str, AnyArray]:
    """An array of any datatype and of up to three small dimensions."""
    datatype = draw(st.sampled_from(list(NUMPY_OF)))
    dtype = NUMPY_OF[datatype]
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = int(np.prod(shape, dtype=np.int64))
    if datatype == "BYTES":
        elements: Any = st.text(max_size=5).map(lambda text: text.encode("utf-8", "replace"))
    elif dtype.kind == "f":
        elements = st.floats(width=dtype.itemsize * 8)  # type: ignore[arg-type]
    elif dtype.kind == "b":
        elements = st.booleans()
    else:
        limits = np.iinfo(dtype)
        elements = st.integers(int(limits.min), int(limits.max))
    flat = np.empty(count, dtype)
    flat[:] = draw(st.lists(elements, min_size=count, max_size=count))
    return datatype, flat.reshape(shape)


def model_of(tensor: Tensor) -> ModelInterface:
    return interface([spec("x", tensor.datatype, *tensor.shape)])


def answered(tensor: Tensor, binary: bool) -> EncodedResponse:
    """A tensor as the encoder answers it, to be sent back to the decoder as an input."""
    parameters = {"binary_data_output": binary}
    any_request = {"inputs": [x_input()], "parameters": parameters}
    request = parse_infer(orjson.dumps(any_request), None, DOUBLE.interface)
    return build_response(InferenceAnswer("m", "1", (tensor,), 0.0, 0.0, 1), request)


@EXAMPLES
@given(arrays())
def test_any_tensor_survives_binary_both_ways(drawn: tuple[str, AnyArray]) -> None:
    tensor = tensor_from_array("x", drawn[1])
    encoded = answered(tensor, binary=True)
    document = orjson.loads(encoded.parts[0])
    text = orjson.dumps({"inputs": document["outputs"]})
    parsed = parse_infer(text + b"".join(encoded.parts[1:]), len(text), model_of(tensor))
    assert parsed.inputs[0].shape == tensor.shape
    assert bytes(parsed.inputs[0].data) == bytes(tensor.data)


@EXAMPLES
@given(arrays(), st.booleans())
def test_any_finite_tensor_survives_json_both_ways(
    drawn: tuple[str, AnyArray], nested: bool
) -> None:
    array = drawn[1]
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.5)
    tensor = tensor_from_array("x", array)
    document = orjson.loads(answered(tensor, binary=False).parts[0])
    if nested and array.size:
        flat = np.empty(array.size, object)
        flat[:] = document["outputs"][0]["data"]
        document["outputs"][0]["data"] = flat.reshape(array.shape or (1,)).tolist()
    parsed = parse_infer(orjson.dumps({"inputs": document["outputs"]}), None, model_of(tensor))
    assert parsed.inputs[0].shape == tensor.shape
    assert bytes(parsed.inputs[0].data) == bytes(tensor.data)


@given(st.lists(st.sampled_from([b"u", b"l", b"true", b"false", b"tru", b"alse", b"1.5,", b"t"])))
def test_booleans_are_found_wherever_they_are(pieces: list[bytes]) -> None:
    text = b"".join(pieces * 20)
    assert may_hold_booleans(text) == (b"true" in text or b"false" in text)

"""What requests are accepted, and what the others are told."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest

from penstock.gateway.http.oip.codec import build_response, parse_infer
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import (
    AnyArray,
    Tensor,
    array_from_tensor,
    encode_bytes_elements,
    tensor_from_array,
)
from tests.unit.gateway.http.fakes import DOUBLE, TEXTS, interface, spec, x_input

ALL_INTEGERS = ["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]


def parse(document: Any, to: ModelInterface = DOUBLE.interface) -> ParsedInfer:
    return parse_infer(orjson.dumps(document), None, to)


def parse_binary(
    document: Any, binary: bytes, to: ModelInterface = DOUBLE.interface
) -> ParsedInfer:
    text = orjson.dumps(document)
    return parse_infer(text + binary, len(text), to)


def refusal(document: Any, to: ModelInterface = DOUBLE.interface) -> str:
    with pytest.raises(PenstockError) as caught:
        parse(document, to)
    assert caught.value.code is ErrorCode.INVALID_INPUT
    return caught.value.message


def refusal_of_bytes(
    body: bytes, header_length: int | None = None, to: ModelInterface = DOUBLE.interface
) -> str:
    with pytest.raises(PenstockError) as caught:
        parse_infer(body, header_length, to)
    assert caught.value.code is ErrorCode.INVALID_INPUT
    return caught.value.message


def one(datatype: str, *shape: int) -> ModelInterface:
    return interface([spec("x", datatype, *shape)])


def x_of(datatype: str, data: Any, shape: list[int] | None = None) -> dict[str, Any]:
    shape = [len(data)] if shape is None else shape
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape, "data": data}]}


BAD_INPUTS = [
    ({"name": "z"}, 'input: expected one of the model\'s inputs ("x"), got "z"'),
    ({"name": None}, "input name: expected a string, got null"),
    ({"datatype": "INT64"}, 'input "x": expected datatype FP32, got "INT64"'),
    ({"datatype": None}, 'input "x": expected datatype FP32, got null'),
    ({"datatype": ["FP32"]}, 'input "x": expected datatype FP32, got a list of 1 element'),
    ({"shape": [4]}, 'input "x": expected shape [-1,4], got 1 dimension'),
    ({"shape": [1, 1, 4]}, 'input "x": expected shape [-1,4], got 3 dimensions'),
    ({"shape": [1, 3]}, 'input "x": expected shape [-1,4], got [1,3]'),
    ({"shape": None}, 'input "x": expected shape [-1,4], got null'),
    ({"shape": "1,4"}, 'input "x": expected shape [-1,4], got "1,4"'),
    (
        {"shape": [-1, 4]},
        'input "x": expected sizes in shape that are whole and not negative, got -1',
    ),
    (
        {"shape": [True, 4]},
        'input "x": expected sizes in shape that are whole and not negative, got true',
    ),
    (
        {"shape": [1.0, 4]},
        'input "x": expected sizes in shape that are whole and not negative, got 1.0',
    ),
    (
        {"shape": ["1", 4]},
        'input "x": expected sizes in shape that are whole and not negative, got "1"',
    ),
    ({"shape": [9, 4]}, 'input "x": expected 36 elements for shape [9,4], got 4'),
    ({"shape": [0, 4], "data": []}, 'input "x": expected 1 row or more, got 0'),
    (
        {"shape": [2**64 - 1, 4]},
        f'input "x": expected at most {2**31} elements, got shape [{2**64 - 1},4]',
    ),
    ({"data": [1, 2, 3]}, 'input "x": expected 4 elements for shape [1,4], got 3'),
    ({"data": [[1, 2, 3]]}, 'input "x": expected 4 elements at data[0] for shape [1,4], got 3'),
    (
        {"data": [[1, 2, 3, 4], [1, 2, 3, 4]]},
        'input "x": expected 1 element for shape [1,4], got 2',
    ),
    (
        {"shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6]]},
        'input "x": expected 4 elements at data[1] for shape [2,4], got 2',
    ),
    (
        {"shape": [2, 4], "data": [[1, 2, 3, 4], 5]},
        'input "x": expected a list of 4 at data[1], got 5',
    ),
    (
        {"shape": [2, 4], "data": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
        'input "x": expected 4 elements at data[0] for shape [2,4], got 2',
    ),
    (
        {"data": [1, [2], 3, 4]},
        'input "x": expected FP32 numbers, got a list of 1 element at data[1]',
    ),
    ({"data": [1, "2", 3, 4]}, 'input "x": expected FP32 numbers, got "2" at data[1]'),
    ({"data": [[1, 2, 3, None]]}, 'input "x": expected FP32 numbers, got null at data[0][3]'),
    ({"data": [1, 2, True, 4]}, 'input "x": expected FP32 numbers, got true at data[2]'),
    ({"data": [1, 2, {}, 4]}, 'input "x": expected FP32 numbers, got an object at data[2]'),
    (
        {"data": [1, 2, 3, 1e39]},
        'input "x": expected FP32 numbers of magnitude up to 3.40282e+38, got 1e+39 at data[3]',
    ),
    ({"data": 5}, 'input "x": expected a list of FP32 elements as data, got 5'),
    ({"data": {"a": 1}}, 'input "x": expected a list of FP32 elements as data, got an object'),
    ({"data": None}, 'input "x": expected data or binary_data_size, got neither'),
    (
        {"parameters": {"binary_data_size": 16}},
        'input "x": expected data or binary_data_size, got both',
    ),
    (
        {"data": None, "parameters": {"binary_data_size": 16}},
        'input "x": expected the header Inference-Header-Content-Length with binary_data_size, '
        "got no such header",
    ),
    ({"parameters": 7}, 'input "x": parameters: expected an object, got 7'),
    (
        {"parameters": {"shared_memory_region": "r"}},
        'input "x": parameter "shared_memory_region" is not supported',
    ),
]


@pytest.mark.parametrize(("changes", "message"), BAD_INPUTS)
def test_bad_input_tensors(changes: dict[str, Any], message: str) -> None:
    assert refusal({"inputs": [x_input(**changes)]}) == message


BAD_DOCUMENTS: list[tuple[Any, str]] = [
    ([], "request: expected a JSON object, got a list of 0 elements"),
    ("x", 'request: expected a JSON object, got "x"'),
    (None, "request: expected a JSON object, got null"),
    ({}, "inputs: expected a list of tensors, got null"),
    ({"inputs": {}}, "inputs: expected a list of tensors, got an object"),
    ({"inputs": []}, 'input "x": expected FP32[-1,4], got no such tensor'),
    ({"inputs": [5]}, "inputs: expected tensors as objects, got 5"),
    ({"inputs": [x_input()] * 2}, 'input "x": expected one tensor of this name, got another'),
    ({"inputs": [x_input()], "id": 7}, "id: expected a string, got 7"),
    (
        {"inputs": [x_input()], "parameters": []},
        "parameters: expected an object, got a list of 0 elements",
    ),
    ({"inputs": [x_input()], "outputs": "y"}, 'outputs: expected a list of objects, got "y"'),
    ({"inputs": [x_input()], "outputs": ["y"]}, 'outputs: expected objects, got "y"'),
    ({"inputs": [x_input()], "outputs": [{}]}, "output name: expected a string, got null"),
    (
        {"inputs": [x_input()], "outputs": [{"name": "z"}]},
        'output: expected one of the model\'s outputs ("y"), got "z"',
    ),
    (
        {"inputs": [x_input()], "outputs": [{"name": "y"}] * 2},
        'output "y": expected to be asked for once, got twice',
    ),
    (
        {"inputs": [x_input()], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        'output "y": parameter "binary_data": expected true or false, got 1',
    ),
    (
        {"inputs": [x_input()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]},
        'output "y": parameter "classification" is not supported',
    ),
]


@pytest.mark.parametrize(("document", "message"), BAD_DOCUMENTS)
def test_bad_documents(document: Any, message: str) -> None:
    assert refusal(document) == message


BAD_PARAMETERS = [
    (
        {"priority": 10},
        'parameter "priority": expected a whole number from 1 (first) to 9 (last), or 0, got 10',
    ),
    (
        {"priority": -1},
        'parameter "priority": expected a whole number from 1 (first) to 9 (last), or 0, got -1',
    ),
    (
        {"priority": True},
        'parameter "priority": expected a whole number from 1 (first) to 9 (last), or 0, got true',
    ),
    (
        {"priority": 1.0},
        'parameter "priority": expected a whole number from 1 (first) to 9 (last), or 0, got 1.0',
    ),
    (
        {"timeout": -1},
        'parameter "timeout": expected a whole number of microseconds, not negative, got -1',
    ),
    (
        {"timeout": "5"},
        'parameter "timeout": expected a whole number of microseconds, not negative, got "5"',
    ),
    (
        {"timeout": 1.5},
        'parameter "timeout": expected a whole number of microseconds, not negative, got 1.5',
    ),
    (
        {"binary_data_output": "yes"},
        'parameter "binary_data_output": expected true or false, got "yes"',
    ),
    (
        {"a": []},
        'parameter "a": expected a string, a number, true or false, got a list of 0 elements',
    ),
    ({"a": {}}, 'parameter "a": expected a string, a number, true or false, got an object'),
    (
        {f"p{n}": n for n in range(65)},
        "parameters: expected at most 64 with 8192 characters in all, got 65 with 185",
    ),
    (
        {"a": "b" * 9000},
        "parameters: expected at most 64 with 8192 characters in all, got 1 with 9001",
    ),
]


@pytest.mark.parametrize(("parameters", "message"), BAD_PARAMETERS)
def test_bad_parameters(parameters: dict[str, Any], message: str) -> None:
    assert refusal({"inputs": [x_input()], "parameters": parameters}) == message


def test_parameters_that_a_model_is_given_and_those_it_is_not() -> None:
    parameters = {
        "zoom": 1.5, "alpha": "a", "flag": True, "none": None, "n": 2**63,
        "priority": 3, "timeout": 2_500_000, "headers": {"a": "b"}, "binary_data_output": True,
        "sequence_id": 7, "triton_x": "y",
    }  # fmt: skip
    parsed = parse({"inputs": [x_input()], "parameters": parameters})
    assert parsed.parameters == (
        ("alpha", "a"), ("flag", True), ("n", 2**63), ("none", None), ("zoom", 1.5),
    )  # fmt: skip
    assert (parsed.priority, parsed.timeout_s, parsed.binary_default) == (3, 2.5, True)


@pytest.mark.parametrize(("given", "meant"), [(0, 5), (1, 1), (9, 9), (None, 5)])
def test_priority_has_tritons_meaning(given: int | None, meant: int) -> None:
    assert parse({"inputs": [x_input()], "parameters": {"priority": given}}).priority == meant


def test_timeout_zero_is_none_and_huge_is_bounded() -> None:
    assert parse({"inputs": [x_input()], "parameters": {"timeout": 0}}).timeout_s is None
    huge = parse({"inputs": [x_input()], "parameters": {"timeout": 2**64 - 1}}).timeout_s
    assert huge == 365 * 86400


BAD_JSON = [
    (b"", "request: expected a JSON object, got an empty body"),
    (b"{", "request: expected JSON, got a fault at line 1, column 2"),
    (b"\xff\xfe", "request: expected JSON, got a fault at line 1, column 1"),
    (b"[" * 200_000, "request: expected JSON nested at most 1024 deep, got deeper"),
]


@pytest.mark.parametrize(("body", "message"), BAD_JSON)
def test_bad_json(body: bytes, message: str) -> None:
    assert refusal_of_bytes(body) == message


@pytest.mark.parametrize(
    ("literal", "got"),
    [
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e400", "a number beyond the range of FP64"),
        ("-1e999", "a number beyond the range of FP64"),
    ],
)
def test_non_finite_literals_name_tensor_and_place(literal: str, got: str) -> None:
    body = orjson.dumps({"inputs": [x_input(data=[[1, 2, 3, "?"]])]}).replace(
        b'"?"', literal.encode()
    )
    expected = "finite numbers (JSON has no others; send the tensor as binary data)"
    assert refusal_of_bytes(body) == f'input "x": expected {expected}, got {got} at data[0][3]'


def test_non_finite_literals_elsewhere_are_faults_of_the_json() -> None:
    assert "fault at line 1, column 7" in refusal_of_bytes(b'{"id":NaN}')


@pytest.mark.parametrize("datatype", ALL_INTEGERS)
def test_integers_to_their_limits_and_not_beyond(datatype: str) -> None:
    dtype = np.dtype(datatype.lower())
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    parsed = parse(x_of(datatype, [low, 0, high]), one(datatype, -1))
    assert array_from_tensor(parsed.inputs[0]).tolist() == [low, 0, high]
    for beyond in (low - 1, high + 1, 2**70):
        body = b'{"inputs":[{"name":"x","datatype":"%s","shape":[2],"data":[1,%d]}]}'
        message = refusal_of_bytes(body % (datatype.encode(), beyond), None, one(datatype, -1))
        assert message.startswith(
            f'input "x": expected whole {datatype} numbers from {low} to {high}'
        )
        assert message.endswith(" at data[1]")


@pytest.mark.parametrize("datatype", ALL_INTEGERS)
@pytest.mark.parametrize(("value", "got"), [(2.5, "2.5"), (2.0, "2.0")])
def test_fractions_are_no_integers(datatype: str, value: float, got: str) -> None:
    message = refusal(x_of(datatype, [1, value]), one(datatype, -1))
    assert message.startswith(f'input "x": expected whole {datatype} numbers from ')
    assert message.endswith(f"written without fraction or exponent, got {got} at data[1]")


@pytest.mark.parametrize(
    ("datatype", "data", "message"),
    [
        ("BOOL", [True, 1], "expected BOOL elements (true or false), got 1 at data[1]"),
        ("BOOL", [None], "expected BOOL elements (true or false), got null at data[0]"),
        ("BYTES", ["a", 1], "expected BYTES elements (strings), got 1 at data[1]"),
        ("BYTES", [["a"]], "expected BYTES elements (strings), got a list of 1 element at data[0]"),
        ("INT8", ["1"], 'expected INT8 numbers, got "1" at data[0]'),
        ("INT8", [1, False], "expected INT8 numbers, got false at data[1]"),
        ("INT64", [None], "expected INT64 numbers, got null at data[0]"),
        ("FP64", [True], "expected FP64 numbers, got true at data[0]"),
        (
            "FP16",
            [65520.0],
            "expected FP16 numbers of magnitude up to 65504, got 65520.0 at data[0]",
        ),
    ],
)
def test_elements_of_the_wrong_kind(datatype: str, data: list[Any], message: str) -> None:
    assert refusal(x_of(datatype, data), one(datatype, -1)) == f'input "x": {message}'


def test_messages_show_long_values_cut_short() -> None:
    long = "a" * 10_000
    for document in (
        {"inputs": [x_input(data=[1, 2, 3, long])]},
        {"inputs": [x_input(name=long)]},
        {"inputs": [x_input(datatype=long)]},
        {"inputs": [x_input(shape=[10**15] * 5000)]},
        {"inputs": [x_input()], "outputs": [{"name": long}]},
        {"inputs": [x_input()], "parameters": {long: []}},
    ):
        assert len(refusal(document)) < 250


def test_flat_and_nested_data_mean_the_same() -> None:
    shape = [2, 1, 3]
    flat = parse(x_of("FP64", [1, 2, 3, 4, 5, 6.5], shape), one("FP64", -1, 1, 3))
    nested = parse(x_of("FP64", [[[1, 2, 3]], [[4, 5, 6.5]]], shape), one("FP64", -1, 1, 3))
    assert flat.inputs == nested.inputs
    assert array_from_tensor(flat.inputs[0]).tolist() == [[[1, 2, 3]], [[4, 5, 6.5]]]


@pytest.mark.parametrize(
    ("shape", "data"), [([0], []), ([0, 3], []), ([2, 0], [[], []]), ([2, 0], [])]
)
def test_empty_tensors(shape: list[int], data: list[Any]) -> None:
    parsed = parse(x_of("FP32", data, shape), one("FP32", *[-1] * len(shape)))
    assert parsed.inputs[0].shape == tuple(shape)
    assert bytes(parsed.inputs[0].data) == b""


def test_a_scalar() -> None:
    assert array_from_tensor(parse(x_of("INT64", [7], []), one("INT64")).inputs[0]) == 7


@pytest.mark.parametrize("shape", [[0, 2**40], [0, 2**63], [0, 2**20, 2**20], [2**31 + 1]])
def test_shapes_that_no_array_can_have(shape: list[int]) -> None:
    message = refusal(x_of("INT8", [], shape), one("INT8", *[-1] * len(shape)))
    assert message.startswith('input "x": expected at most 2147483648 elements, got shape [')


def test_a_stated_shape_allocates_nothing() -> None:
    message = refusal(x_of("INT64", [], [2**30]), one("INT64", -1))
    assert message == 'input "x": expected 1073741824 elements for shape [1073741824], got 0'


def test_inputs_come_in_the_interfaces_order_with_equal_rows() -> None:
    text = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a", "ü"]}
    n = {"name": "n", "datatype": "INT64", "shape": [2], "data": [1, 2]}
    parsed = parse({"inputs": [n, text]}, TEXTS.interface)
    assert [tensor.name for tensor in parsed.inputs] == ["text", "n"]
    assert array_from_tensor(parsed.inputs[0]).tolist() == [b"a", "ü".encode()]
    n = {**n, "shape": [1], "data": [1]}
    message = refusal({"inputs": [n, text]}, TEXTS.interface)
    assert message == 'input "n": expected 2 rows as in input "text", got 1'


def test_without_a_batch_dimension_rows_are_free() -> None:
    free = interface([spec("a", "INT8", -1), spec("b", "INT8", -1)])
    inputs = [
        {"name": "a", "datatype": "INT8", "shape": [3], "data": [1, 2, 3]},
        {"name": "b", "datatype": "INT8", "shape": [0], "data": []},
    ]
    assert [tensor.shape for tensor in parse({"inputs": inputs}, free).inputs] == [(3,), (0,)]


def test_an_interface_with_an_unsupported_datatype() -> None:
    message = refusal(x_of("FP8", [1.0]), one("FP8", -1))
    assert message == 'input "x": datatype "FP8" is not supported'


def test_null_members_are_as_good_as_absent_ones() -> None:
    document = {"id": None, "parameters": None, "outputs": None}
    parsed = parse({"inputs": [x_input(parameters=None)], **document})
    assert (parsed.id, parsed.parameters, parsed.outputs) == (None, (), ())


def binary_x(size: Any, **changes: Any) -> dict[str, Any]:
    entry = x_input(parameters={"binary_data_size": size}, **changes)
    del entry["data"]
    return entry


def test_binary_input_is_a_view_of_the_body() -> None:
    raw = np.array([1, np.nan, np.inf, -0.0], "<f4").tobytes()
    tensor = parse_binary({"inputs": [binary_x(16)]}, raw).inputs[0]
    assert isinstance(tensor.data, memoryview)
    assert bytes(tensor.data) == raw


def test_json_and_binary_mixed() -> None:
    two = interface([spec("a", "FP32", 2), spec("x", "FP32", 1, 4), spec("b", "BYTES", 2)])
    a = {"name": "a", "datatype": "FP32", "shape": [2], "data": [1, 2]}
    raw_b = encode_bytes_elements([b"\x00\xff", b""])
    b = {
        "name": "b",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": len(raw_b)},
    }
    raw_x = np.arange(4, dtype="<f4").tobytes()
    parsed = parse_binary({"inputs": [b, a, binary_x(16)]}, raw_b + raw_x, two)
    assert [array_from_tensor(tensor).ravel().tolist() for tensor in parsed.inputs] == [
        [1, 2],
        [0, 1, 2, 3],
        [b"\x00\xff", b""],
    ]


WHOLE_SIZE = 'input "x": expected a binary_data_size that is whole and not negative, got '
SUM_OF_SIZES = "bytes after the JSON, the sum of all binary_data_size, got"
BAD_BINARY = [
    (binary_x(15), 15, 'input "x": expected 16 bytes for FP32[1,4], got binary_data_size 15'),
    (binary_x(-1), 0, f"{WHOLE_SIZE}-1"),
    (binary_x("16"), 16, f'{WHOLE_SIZE}"16"'),
    (binary_x(True), 16, f"{WHOLE_SIZE}true"),
    (binary_x(16), 15, 'input "x": expected 16 bytes of binary data (binary_data_size), got 15'),
    (binary_x(16), 17, f"binary data: expected 16 {SUM_OF_SIZES} 17"),
    (x_input(), 1, f"binary data: expected 0 {SUM_OF_SIZES} 1"),
]


@pytest.mark.parametrize(("entry", "size", "message"), BAD_BINARY)
def test_binary_sizes_must_add_up(entry: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(PenstockError) as caught:
        parse_binary({"inputs": [entry]}, bytes(size))
    assert caught.value.message == message


@pytest.mark.parametrize("length", [-1, 3, 2**62])
def test_a_json_length_outside_the_body(length: int) -> None:
    message = refusal_of_bytes(b"{}", length)
    expected = "a length within the body of 2 bytes"
    assert message == f"Inference-Header-Content-Length: expected {expected}, got {length}"


@pytest.mark.parametrize(
    "raw",
    [b"\x01\x00\x00\x00", b"\x00" * 3, b"\x00" * 12, b"\xff\xff\xff\xffab", b"\x00" * 8 + b"x"],
)
def test_bytes_elements_must_fill_their_data(raw: bytes) -> None:
    entry = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [2],
        "parameters": {"binary_data_size": len(raw)},
    }
    with pytest.raises(PenstockError, match='input "x": expected 2 BYTES elements, each behind'):
        parse_binary({"inputs": [entry]}, raw, one("BYTES", -1))


def test_bytes_that_are_no_text_are_named_where_the_model_takes_text() -> None:
    raw = encode_bytes_elements(["é", b"\xff\xfe", "z"])
    size = {"binary_data_size": len(raw)}
    entry = {"name": "x", "datatype": "BYTES", "shape": [3], "parameters": size}
    text = TensorSpec(name="x", datatype="BYTES", shape=(-1,), text=True)
    message = 'input "x": expected text in UTF-8, got other bytes in element 1'
    with pytest.raises(PenstockError, match=message) as caught:
        parse_binary({"inputs": [entry]}, raw, interface([text]))
    assert caught.value.code is ErrorCode.INVALID_INPUT
    parse_binary({"inputs": [entry]}, raw, one("BYTES", -1))
    whole = encode_bytes_elements(["é", "", "模型"])
    entry["parameters"] = {"binary_data_size": len(whole)}
    parse_binary({"inputs": [entry]}, whole, interface([text]))


def test_bool_bytes_are_0_or_1() -> None:
    entry = {"name": "x", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}}
    tensor = parse_binary({"inputs": [entry]}, b"\x01\x00", one("BOOL", -1)).inputs[0]
    assert array_from_tensor(tensor).tolist() == [True, False]
    with pytest.raises(PenstockError, match="expected BOOL bytes of 0 or 1, got other values"):
        parse_binary({"inputs": [entry]}, b"\x01\x02", one("BOOL", -1))


def answer(*outputs: Tensor) -> InferenceAnswer:
    return InferenceAnswer("m", "3", outputs, 0.0, 0.0, 1)


def request_for(outputs: list[dict[str, Any]] | None = None, **parameters: Any) -> ParsedInfer:
    model = interface([spec("x", "FP32", -1, 4)], [spec("y", "FP32", -1), spec("z", "BYTES", -1)])
    return parse({"inputs": [x_input()], "outputs": outputs, "parameters": parameters}, model)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_are_not_finite_are_null_in_json(dtype: type) -> None:
    y = tensor_from_array("y", np.array([1.5, np.nan, np.inf, -np.inf], dtype))
    encoded = build_response(answer(y), request_for())
    assert encoded.header_length is None
    assert b'"data":[1.5,null,null,null]' in encoded.parts[0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_are_not_finite_are_exact_in_binary(dtype: type) -> None:
    array: AnyArray = np.array([1.5, np.nan, np.inf, -np.inf, -0.0], dtype)
    encoded = build_response(
        answer(tensor_from_array("y", array)), request_for(binary_data_output=True)
    )
    assert bytes(encoded.parts[1]) == array.tobytes()
    assert encoded.header_length == len(encoded.parts[0])


def test_response_says_who_answered_and_echoes_no_id_without_one() -> None:
    y = tensor_from_array("y", np.array([[1, 2]], np.int64))
    encoded = build_response(answer(y), request_for())
    assert orjson.loads(encoded.parts[0]) == {
        "model_name": "m",
        "model_version": "3",
        "outputs": [{"name": "y", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}],
    }


@pytest.mark.parametrize(
    ("outputs", "default", "binary"),
    [
        (None, False, []),
        (None, True, ["y", "z"]),
        ([{"name": "z"}, {"name": "y"}], False, []),
        ([{"name": "z"}, {"name": "y"}], True, ["y", "z"]),
        ([{"name": "z", "parameters": {"binary_data": True}}, {"name": "y"}], False, ["z"]),
        ([{"name": "z", "parameters": {"binary_data": False}}, {"name": "y"}], True, ["y"]),
    ],
)
def test_which_outputs_are_binary(outputs: Any, default: bool, binary: list[str]) -> None:
    y = tensor_from_array("y", np.array([1, 2], np.float32))
    z = tensor_from_array("z", np.array([b"a", b"bc"], object))
    encoded = build_response(answer(y, z), request_for(outputs, binary_data_output=default))
    document = orjson.loads(encoded.parts[0])
    sizes = {"y": 8, "z": 11}
    for output in document["outputs"]:
        if output["name"] in binary:
            assert output["parameters"] == {"binary_data_size": sizes[output["name"]]}
            assert "data" not in output
        else:
            assert "parameters" not in output
    assert len(encoded.parts) == 1 + len(binary)


def test_text_outputs_are_strings_and_other_bytes_need_binary() -> None:
    text = tensor_from_array("z", np.array(["a", "ü"], object))
    assert '"data":["a","ü"]'.encode() in build_response(answer(text), request_for()).parts[0]
    raw = tensor_from_array("z", np.array([b"\xff"], object))
    with pytest.raises(PenstockError) as caught:
        build_response(answer(raw), request_for())
    assert caught.value.code is ErrorCode.MODEL_ERROR
    assert '"binary_data": true' in caught.value.message
    encoded = build_response(answer(raw), request_for(binary_data_output=True))
    assert bytes(encoded.parts[1]) == struct.pack("<I", 1) + b"\xff"


def test_a_scalar_and_an_unaligned_output() -> None:
    scalar = Tensor("y", "FP64", (), np.float64(2.5).tobytes())
    assert b'"shape":[],"data":[2.5]' in build_response(answer(scalar), request_for()).parts[0]
    shifted = memoryview(b"?" + np.array([1.5, 2.5]).tobytes())[1:]
    unaligned = Tensor("y", "FP64", (2,), shifted)
    assert b'"data":[1.5,2.5]' in build_response(answer(unaligned), request_for()).parts[0]

"""Large arrays are read as small ones are: the same bytes, or the same message."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.oip.codec import parse_infer
from penstock.gateway.http.tensors.json_tensors import bytes_from_json
from penstock.gateway.http.tensors.large_arrays import (
    DOCUMENT_BYTES_MIN,
    LargeArray,
    bytes_from_large,
    document_without_arrays,
)
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import array_from_tensor
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import interface, spec

TOKENS = st.sampled_from(
    ["[", "]", ",", "1", "-2.5", "1e39", "1e400", "300", " ", "\n", "0", "01", "1,2,3,4,", "],["]
)
DATATYPES = st.sampled_from(["FP32", "FP16", "BF16", "FP64", "UINT8", "INT64", "BOOL", "BYTES"])


def outcome(read: Any) -> bytes | str:
    try:
        return bytes(read())
    except PenstockError as error:
        return error.message


def read_small(text: bytes, datatype: str, shape: tuple[int, ...]) -> bytes:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        got = f"a fault at character {error.pos} of data"
        raise PenstockError(
            ErrorCode.INVALID_INPUT, f"x: expected {datatype} elements in JSON, got {got}"
        ) from None
    return bytes_from_json("x", datatype, shape, data, booleans_in_text=False)


@examples(400)
@given(
    st.lists(TOKENS, max_size=14).map("".join),
    DATATYPES,
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(1, 12),
)
def test_any_text_is_read_as_a_whole_one_is(
    inner: str, datatype: str, shape: list[int], piece_bytes: int
) -> None:
    text = f"[{inner}]".encode()
    large = LargeArray(memoryview(text))
    dims = tuple(shape)
    whole = outcome(lambda: read_small(text, datatype, dims))
    pieces = outcome(lambda: bytes_from_large("x", datatype, dims, large, piece_bytes))
    assert pieces == whole


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "INT64"])
@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        (b"[[]]", (0, 0), "0 elements for shape [0,0], got 1"),
        (b"[[], []]", (1, 0), "1 element for shape [1,0], got 2"),
        (b"[[ ]]", (2, 0), "2 elements for shape [2,0], got 1"),
    ],
)
def test_rows_without_elements_are_counted_too(
    text: bytes, shape: tuple[int, ...], expected: str, datatype: str
) -> None:
    large = LargeArray(memoryview(text))
    found = outcome(lambda: bytes_from_large("x", datatype, shape, large))
    assert found == outcome(lambda: read_small(text, datatype, shape)) == f"x: expected {expected}"


@examples(150)
@given(st.data(), st.integers(1, 40), st.booleans(), st.booleans())
def test_numbers_in_pieces_of_any_size(
    data: st.DataObject, piece_bytes: int, nested: bool, spaced: bool
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    values = data.draw(st.lists(st.floats(width=32), min_size=1, max_size=1)) * math.prod(shape)
    array = np.nan_to_num(np.array(values, np.float32)).reshape(shape)
    text = orjson.dumps(array if nested else array.reshape(-1), option=orjson.OPT_SERIALIZE_NUMPY)
    if spaced:
        text = text.replace(b",", b" ,\n ").replace(b"[", b"[ ").replace(b"]", b"\t]")
    large = LargeArray(memoryview(text))
    assert bytes_from_large("x", "FP32", shape, large, piece_bytes) == array.tobytes()


def set_aside(text: bytes) -> list[Any] | None:
    document = document_without_arrays(text, array_bytes_min=5)
    if document is None:
        return None
    return [
        bytes(entry["data"].text) if isinstance(entry["data"], LargeArray) else entry["data"]
        for entry in document["inputs"]
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"inputs":[{"data":[1,2,3]}]}', [b"[1,2,3]"]),
        (b'{"inputs":[{"data" :\n[ [1,2],[3] ] , "name":"x"}]}', [b"[ [1,2],[3] ]"]),
        (
            b'{"inputs":[{"data":[1,2,3]},{"data":[1]},{"data":[4,5,6]}]}',
            [b"[1,2,3]", [1], b"[4,5,6]"],
        ),
        (b'{"inputs":[{"data":[1]}]}', None),
        (b'{"inputs":[{"data":[1,2,true]}]}', None),
        (b'{"inputs":[{"data":["1,2,3"]}]}', None),
        (b'{"inputs":[{"data":[[1,2,3]}]}', None),
        (b'{"inputs":[{"data":[1,2,3],"data":[4,5,6]}]}', None),
        (b'{"inputs":[{"name":"\\"data\\":[1,2,3]"}]}', None),
        (b'{"inputs":[{"name":"\\u0001penstock-list","data":[1,2,3]}]}', None),
        (b'{"data":[1,2,3],"inputs":[{"data":[1,2,3]}]}', None),
        (b'{"inputs":{"data":[1,2,3]}}', None),
        (b'[{"data":[1,2,3]}]', None),
        (b'{"inputs":[{"data":[1,2,3]', None),
    ],
)
def test_what_is_set_aside(text: bytes, found: list[Any] | None) -> None:
    assert set_aside(text) == found


def test_a_large_request() -> None:
    numbers = np.random.default_rng(1).standard_normal((2, 400_000)).astype(np.float32)
    model = interface([spec("x", "FP32", -1, -1)])
    for data in (numbers, numbers.reshape(-1)):
        entry = {"name": "x", "datatype": "FP32", "shape": numbers.shape, "data": data}
        text = orjson.dumps({"inputs": [entry], "id": "i"}, option=orjson.OPT_SERIALIZE_NUMPY)
        assert len(text) > DOCUMENT_BYTES_MIN
        for body in (text, bytearray(text)):
            parsed = parse_infer(body, None, model)
            assert parsed.id == "i"
            assert np.array_equal(array_from_tensor(parsed.inputs[0]), numbers)
    bad = text.replace(b"]}]", b",1e39]}]").replace(b"400000]", b"400000]")
    with pytest.raises(PenstockError, match=r'input "x": expected 800000 elements .* got 800001'):
        parse_infer(bad, None, model)
    with pytest.raises(PenstockError, match=r"FP32 elements in JSON, got a fault at character"):
        parse_infer(text.replace(b"]}]", b",]}]"), None, model)
    head, found, tail = text.partition(b'"data":[')
    with_true = head + found + b"true" + tail[tail.index(b",") :]
    with pytest.raises(PenstockError, match=r'input "x": expected FP32 numbers, got true at'):
        parse_infer(with_true, None, model)


def test_many_small_lists_are_not_looked_at() -> None:
    text = b'{"inputs":[' + b'{"data":[1]},' * 500_000 + b'{"data":[1,2,3]}]}'
    assert set_aside(text) is None

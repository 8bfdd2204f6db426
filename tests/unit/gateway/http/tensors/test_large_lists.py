"""Lists that are read in pieces say what they say when they are read whole."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.oip.codec import parse_infer
from penstock.gateway.http.scoring import formats as scoring_formats
from penstock.gateway.http.scoring.formats import read_kserve, read_mlflow
from penstock.gateway.http.tensors import large_arrays, large_lists
from penstock.gateway.http.tensors.large_arrays import ARRAY_BYTES_MIN, document_without_arrays
from penstock.gateway.http.tensors.large_lists import document_without, large_list, mark_of
from penstock.shared.contracts.errors import PenstockError
from tests.unit.gateway.http.fakes import interface, spec

TEXTS = st.text('ab",[]{}\\é\n:1', max_size=6)
NUMBERS = st.floats(-9, 9, width=32)
LEAVES = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)
LIST = re.compile(rb'"rows":\[')


@given(st.lists(VALUES, min_size=1), st.integers(1, 40), VALUES)
def test_pieces_are_the_list(elements: list[Any], piece_bytes: int, beside: Any) -> None:
    text = orjson.dumps({"beside": beside, "rows": elements, "after": beside})
    found = document_without(text, LIST, lambda text, at: large_list(text, at, piece_bytes))
    if found is None:  # a list of this name was in the rest, and is not what it seems to be
        return
    document, lists = found
    assert document["beside"] == document["after"]
    mark = mark_of(document["rows"])
    assert mark is not None
    assert [each for piece in lists[mark].pieces() for each in piece] == elements


@given(st.integers(2, 9), st.lists(TEXTS, min_size=1, max_size=30))
def test_a_look_may_end_anywhere(looked_at: int, elements: list[str]) -> None:
    text = orjson.dumps(elements) + b",[]"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_lists, "PIECE_BYTES", looked_at)
        found = large_list(text, 0, 5)
    assert [each for piece in found.pieces() for each in piece] == elements


@pytest.mark.parametrize("text", [b"[1,[2]", b"[1,2}", b'["]', b'["a\\"]', b"[" * 1000])
def test_a_list_without_an_end_is_none(text: bytes) -> None:
    with pytest.raises(ValueError, match="end"):
        large_list(text, 0)


@pytest.mark.parametrize("text", [b"[1,,2]", b"[1,2,]", b"[,1]", b"[1 2,3]", b"[1,{2]]"])
def test_what_is_no_json_is_found(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^"):
        list(large_list(text, 0, 1).pieces())


TABLE = interface([spec("a", "FP64", -1), spec("t", "BYTES", -1)])
ONE = interface([spec("x", "FP32", -1, -1)])
COLUMN = interface([spec("x", "FP32", -1)])
ROWS = st.lists(st.tuples(st.none() | NUMBERS, TEXTS), min_size=1, max_size=12)


def outcome(read: Any, text: bytes, content_type: bytes, model: Any) -> Any:
    try:
        parsed = read(text, {b"content-type": content_type}, model, 1000)
    except PenstockError as error:
        return error.message
    return [(each.name, each.shape, bytes(each.data)) for each in parsed.inputs], parsed.parameters


def in_pieces_and_whole(
    read: Any, text: bytes, model: Any, content_type: bytes = b"application/json"
) -> None:
    whole = outcome(read, text, content_type, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring_formats, "LARGE_BYTES", 10)
        patch.setattr(scoring_formats, "PIECE_BYTES", 8)
        patch.setattr(scoring_formats, "CSV_ROWS_MAX", 2)
        assert outcome(read, text, content_type, model) == whole


def spoilt(text: bytes, at: int, by: bytes) -> bytes:
    at %= len(text)
    return text[:at] + by + text[at + len(by) :]


SPOILS = st.sampled_from([b"", b",", b"]", b'"', b"{", b"null", b"[1]", b'{"x":1}', b"\\", b"\xff"])


@given(ROWS, st.integers(0, 10**6), SPOILS)
def test_tables(rows: list[Any], at: int, by: bytes) -> None:
    records = [{"a": a, "t": t} if a is not None else {"t": t} for a, t in rows]
    split = {"columns": ["a", "t"], "data": rows}
    for document in ({"dataframe_split": split}, {"dataframe_records": records}):
        text = orjson.dumps({**document, "params": {"p": 1}})
        in_pieces_and_whole(read_mlflow, spoilt(text, at, by), TABLE)
    target = io.StringIO()
    csv.writer(target).writerows([("a", "t"), *rows])
    in_pieces_and_whole(read_mlflow, spoilt(target.getvalue().encode(), at, by), TABLE, b"text/csv")


@given(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1), st.integers(0), SPOILS)
def test_bare_rows(rows: list[Any], at: int, by: bytes) -> None:
    for read, field in ((read_mlflow, "inputs"), (read_kserve, "instances")):
        in_pieces_and_whole(read, spoilt(orjson.dumps({field: rows}), at, by), ONE)
        flat = [row[0] for row in rows]
        in_pieces_and_whole(read, spoilt(orjson.dumps({field: flat}), at, by), COLUMN)
        named = [{"x": row} for row in rows]
        in_pieces_and_whole(read, spoilt(orjson.dumps({field: named}), at, by), ONE)


@pytest.mark.parametrize("last", [{"x": 3.0}, [3.0], None, "3", 3.0])
def test_a_row_of_another_kind_far_behind_is_refused(last: Any) -> None:
    for rows in ([1.0] * 20, [{"x": 1.0}] * 20):
        text = orjson.dumps({"instances": [*rows, last]})
        in_pieces_and_whole(read_kserve, text, COLUMN)


@given(st.lists(TEXTS, min_size=1), st.integers(0), SPOILS)
def test_texts_of_the_open_protocol(texts: list[str], at: int, by: bytes) -> None:
    model = interface([spec("t", "BYTES", -1)])
    many = texts * (1 + ARRAY_BYTES_MIN // len(texts))
    entry = {"name": "t", "datatype": "BYTES", "shape": [len(many)], "data": many}
    text = spoilt(orjson.dumps({"inputs": [entry]}), at, by)

    def read() -> Any:
        try:
            (tensor,) = parse_infer(text, None, model).inputs
        except PenstockError as error:
            return error.code
        return tensor.shape, bytes(tensor.data)

    whole = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large_arrays, "LIST_BYTES_MIN", 0)
        patch.setattr(large_arrays, "PIECE_BYTES", 300)
        assert read() == whole
        if isinstance(whole, tuple):
            assert document_without_arrays(text) is not None  # it was read in pieces


MATRIX = interface([spec("x", "FP32", -1, 2)])
TWO = interface([spec("a", "FP64", -1), spec("b", "FP64", -1)])


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (MATRIX, {"dataframe_records": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}),
        (MATRIX, {"dataframe_records": [{"a": 1, "b": 2}, {"c": 1, "d": 2}]}),
        (MATRIX, {"dataframe_records": [{"x": [1, 2]}, {"c": 1, "d": 2}]}),
        (MATRIX, {"dataframe_records": [{"a": 1}, {"a": 1, "b": 2}]}),
        (TWO, {"dataframe_records": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}),
        (TWO, {"dataframe_records": [{"a": 1, "b": 2}, {"b": 2}]}),
        (TWO, {"dataframe_split": {"data": [[1, 2], [1, 2, 3]]}}),
        (TWO, {"dataframe_split": {"data": [[1, 2, 3, 4], [1, 2, 3]]}}),
        (TWO, {"dataframe_split": {"data": [[1, 2], [1, 2]]}}),
        (MATRIX, {"junk": {"data": [[1, 2]] * 9}, "inputs": {"penstock-list": 0}}),
    ],
)
def test_rows_that_look_otherwise_far_behind_mean_what_they_mean_whole(
    model: Any, document: Any
) -> None:
    in_pieces_and_whole(read_mlflow, orjson.dumps(document), model)


@pytest.mark.parametrize(
    "mark", [rb"penstock-list", rb"penstock\u002dlist", rb"\u0070enstock-list"]
)
@pytest.mark.parametrize("which", [b"0", b"-1", b"7", b'"a"', b"null"])
def test_a_mark_that_a_client_wrote_is_no_mark(mark: bytes, which: bytes) -> None:
    numbers = b"[" + b"1," * 3000 + b"1]"
    text = b'{"j":{"data":' + numbers + b'},"inputs":[{"name":"x","datatype":"FP32",'
    text += b'"shape":[3001],"data":{"' + mark + b'":' + which + b"}}]}"
    with pytest.raises(PenstockError, match="a list of FP32 elements as data"):
        parse_infer(text, None, COLUMN)


@pytest.mark.parametrize("mark", [rb"penstock-list", rb"penstock\u002dlist"])
def test_nor_is_one_in_a_table(mark: bytes) -> None:
    text = b'{"junk":{"data":[[1,2],[3,4],[5,6]]},"instances":{"' + mark + b'":0}}'
    in_pieces_and_whole(read_kserve, text, MATRIX)

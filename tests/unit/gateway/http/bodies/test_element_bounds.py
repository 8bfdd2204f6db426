"""What a body may hold is told before it is read, at little cost, and never wrongly."""

from __future__ import annotations

import csv
import io
import time
import tracemalloc

import orjson
import pytest

from penstock.gateway.http.bodies.element_bounds import (
    BESIDE_MAX,
    LARGE_BYTES,
    MAX_REQUEST_ELEMENTS,
    SLICE_BYTES,
    Allowed,
    allowed_of,
    check_csv,
    check_json,
)
from penstock.gateway.http.oip.format import OipFormat
from penstock.gateway.http.scoring.formats import KserveFormat, MlflowFormat
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from tests.unit.gateway.http.fakes import interface, spec

ROW = interface([spec("x", "FP32", 1, 64)], max_batch_size=0)
OPEN = interface([spec("x", "FP32", -1, -1)], max_batch_size=0)
TEXT = interface([spec("t", "BYTES", -1)], max_batch_size=4)
FORMATS: dict[str, OipFormat | MlflowFormat | KserveFormat] = {
    "oip": OipFormat(),
    "mlflow": MlflowFormat(),
    "kserve": KserveFormat(),
}
JSON = {b"content-type": b"application/json"}
CSV = {b"content-type": b"text/csv"}
MANY = 2_000_000


def tensor(data: bytes) -> bytes:
    head = b'{"inputs":[{"name":"x","shape":[1,64],"datatype":"FP32","data":['
    return head + data + b"]}]}"


BODIES = {
    "empty lists": ("oip", JSON, tensor(b"[]," * MANY + b"[]")),
    "numbers": ("oip", JSON, tensor(b"1," * MANY + b"1")),
    "objects": ("oip", JSON, tensor(b"{}," * MANY + b"{}")),
    "nulls": ("oip", JSON, tensor(b"null," * MANY + b"null")),
    "empty texts": ("oip", JSON, tensor(b'"",' * MANY + b'""')),
    "tensors": ("oip", JSON, b'{"inputs":[' + b'{"name":"x"},' * MANY + b"{}]}"),
    "outputs": ("oip", JSON, b'{"inputs":[],"outputs":[' + b"{}," * MANY + b"{}]}"),
    "parameters": ("oip", JSON, b'{"parameters":{' + b'"a":1,' * MANY + b'"b":1}}'),
    "binary's JSON": (
        "oip",
        {b"inference-header-content-length": b"%d" % (3 * MANY + 4)},
        b"[" + b"[]," * MANY + b"[]]" + b"\0" * 256,
    ),
    "split rows": ("mlflow", JSON, b'{"dataframe_split":{"data":[' + b"[]," * MANY + b"[]]}}"),
    "split columns": (
        "mlflow",
        JSON,
        b'{"dataframe_split":{"columns":[' + b"1," * MANY + b'1],"data":[]}}',
    ),
    "records": ("mlflow", JSON, b'{"dataframe_records":[' + b'{"x":1},' * MANY + b"{}]}"),
    "mlflow inputs": ("mlflow", JSON, b'{"inputs":[' + b"1," * MANY + b"1]}"),
    "mlflow instances": ("mlflow", JSON, b'{"instances":[' + b"[1]," * MANY + b"[1]]}"),
    "csv rows": ("mlflow", CSV, b"x\n" + b"1\n" * MANY),
    "csv cells": ("mlflow", CSV, b"1," * MANY + b"1\n"),
    "csv behind a stray quote": ("mlflow", CSV, b'x\na"b\n' + b"1\n" * MANY),
    "kserve instances": ("kserve", JSON, b'{"instances":[' + b"[]," * MANY + b"[]]}"),
    "kserve inputs": ("kserve", JSON, b'{"inputs":{"x":[' + b"1," * MANY + b"1]}}"),
}


@pytest.mark.parametrize("kind", BODIES)
def test_too_many_values_are_refused_before_objects_are_made(kind: str) -> None:
    name, headers, body = BODIES[kind]
    tracemalloc.start()
    started_s = time.thread_time()
    try:
        with pytest.raises(PenstockError) as caught:
            FORMATS[name].parse(body, headers, ROW)
        took_s = time.thread_time() - started_s
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.code is ErrorCode.INVALID_INPUT
    assert "expected" in caught.value.message
    assert "got more" in caught.value.message
    assert took_s < 0.2
    assert peak_bytes < 16 * 1024 * 1024


def test_long_texts_full_of_commas_and_brackets_are_not_refused() -> None:
    text = ',[{"\\' * 200_000
    document = {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    parsed = FORMATS["oip"].parse(orjson.dumps(document), JSON, TEXT)
    assert bytes(parsed.inputs[0].data)[4:] == text.encode()
    table = io.StringIO()
    cell = text[:100_000]  # the longest that the reader takes is 128 KiB
    csv.writer(table).writerows([["t"], *[[cell]] * 4])
    parsed = FORMATS["mlflow"].parse(table.getvalue().encode(), CSV, TEXT)
    assert bytes(parsed.inputs[0].data)[-100_000:] == cell.encode()


def test_open_sizes_are_bounded_by_the_setting_alone() -> None:
    count = 300_000
    body = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1, count], "datatype": "FP32", "data": [1.5] * count}]}
    )
    assert OipFormat().parse(body, JSON, OPEN).inputs[0].shape == (1, count)
    assert OipFormat(count).parse(body, JSON, OPEN).inputs[0].shape == (1, count)
    for most in (count - 1, 10):
        with pytest.raises(PenstockError, match="expected"):
            OipFormat(most).parse(body, JSON, OPEN)


def test_small_requests_are_held_to_the_setting_too() -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}'
    assert OipFormat(3).parse(body, JSON, OPEN)
    with pytest.raises(
        PenstockError, match=r"at most 2 elements \(--max-request-elements\), got 3"
    ):
        OipFormat(2).parse(body, JSON, OPEN)


def test_binary_texts_are_counted_and_binary_numbers_are_not() -> None:
    texts = b'{"inputs":[{"name":"t","shape":[3],"datatype":"BYTES",'
    texts += b'"parameters":{"binary_data_size":12}}]}'
    numbers = b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32",'
    numbers += b'"parameters":{"binary_data_size":12}}]}'
    for text, model, fits in ((texts, TEXT, False), (numbers, OPEN, True)):
        headers = {b"inference-header-content-length": b"%d" % len(text)}
        if fits:
            assert OipFormat(2).parse(text + bytes(12), headers, model)
        else:
            with pytest.raises(PenstockError, match="at most 2 elements"):
                OipFormat(2).parse(text + bytes(12), headers, model)


def test_what_an_interface_allows() -> None:
    assert allowed_of(ROW, MAX_REQUEST_ELEMENTS) == Allowed(64, 3)
    assert allowed_of(OPEN, 1000).elements == 1000
    image = interface([spec("x", "FP32", -1, 3, 224, 224)], max_batch_size=8)
    assert allowed_of(image, 1000).elements == 1000  # rows are open: they run in pieces


@pytest.mark.parametrize("backslashes", range(5))
@pytest.mark.parametrize("quote", [True, False])
def test_a_slice_may_end_anywhere_in_an_escape(backslashes: int, quote: bool) -> None:
    text = "\\" * backslashes + ('"' if quote else "") + "," * (3 * BESIDE_MAX)
    for gap in range(-3, 4):
        filler = "a" * (SLICE_BYTES - backslashes + gap)
        check_json(orjson.dumps([filler + text, 1]), Allowed(1, 1))
        many = [filler + text, *([1] * (BESIDE_MAX + LARGE_BYTES))]
        with pytest.raises(PenstockError):
            check_json(orjson.dumps(many), Allowed(1, 1))


def test_cells_are_counted_outside_of_quotes_only() -> None:
    quoted = b'"' + b"a,\n" * 400_000 + b'","x""y"\n'
    check_csv(b"a,b\n" + quoted, Allowed(2, 0))
    with pytest.raises(PenstockError, match="CSV with at most"):
        check_csv(b"a,b\n" + quoted + b"1,2\n" * 100_000, Allowed(2, 0))

"""gzip and deflate both ways: what is taken, what is refused, and at what cost."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.server.compression import (
    PIECE_BYTES,
    Coding,
    Inflater,
    chosen_coding,
    deflated,
)
from penstock.gateway.http.settings import HttpSettings
from penstock.shared.contracts.errors import PenstockError
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import FakeInference, app_of, client_of, x_input

INFER = "/v2/models/double/infer"
GOOD = orjson.dumps({"inputs": [x_input()]})
GZIPPED = gzip.compress(GOOD, mtime=0)
"""Always the same bytes, and so names of tests."""


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def inflated(coding: Coding, data: bytes, cut: int = 7) -> bytes:
    inflater = Inflater(coding)
    chunks = [data[at : at + cut] for at in range(0, len(data), cut)]
    whole = b"".join(piece for chunk in chunks for piece in inflater.feed(chunk))
    inflater.finish()
    return whole


@examples(40)
@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]), st.integers(1, 50))
def test_the_way_out_and_back(data: bytes, coding: Coding, cut: int) -> None:
    packed = b"".join(deflated((data[:9], memoryview(data)[9:]), coding))
    assert inflated(coding, packed, cut) == data
    assert (gzip.decompress if coding == "gzip" else zlib.decompress)(packed) == data


def test_what_other_programs_write() -> None:
    assert inflated("gzip", gzip.compress(b"ab") + gzip.compress(b"c")) == b"abc"
    assert inflated("deflate", raw_deflate(GOOD)) == GOOD
    assert inflated("deflate", zlib.compress(GOOD, 0)) == GOOD


@pytest.mark.parametrize(
    ("coding", "data"),
    [
        ("gzip", b""),
        ("gzip", b"x"),
        ("gzip", GZIPPED[:-1]),
        ("gzip", GZIPPED[:-5] + b"12345"),
        ("gzip", GZIPPED + b"more"),
        ("gzip", zlib.compress(GOOD)),
        ("deflate", b""),
        ("deflate", b"x"),
        ("deflate", GZIPPED),
        ("deflate", zlib.compress(GOOD)[:-1]),
        ("deflate", zlib.compress(GOOD) + b"m"),
        ("deflate", raw_deflate(GOOD)[:-1]),
    ],
)
def test_what_is_not_of_its_coding_is_refused(coding: Coding, data: bytes) -> None:
    for cut in (1, 1000):
        with pytest.raises(PenstockError, match=f"request body: expected {coding} data"):
            inflated(coding, data, cut)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("GZIP;Q=1.0", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=0, *", "deflate"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("identity, gzip;q=0.9", None),
        ("identity;q=0.5, gzip;q=0.9", "gzip"),
        ("br", None),
        ("gzip;q=nonsense", None),
        ("gzip;q=2", None),
        ("gzip;q=nan", None),
        (", ,;;q=,", None),
    ],
)
def test_the_coding_that_a_client_wants(accept: str, coding: Coding | None) -> None:
    assert chosen_coding(accept) == coding


async def infer(body: bytes, bounds: HttpSettings | None = None, **headers: str) -> httpx.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client_of(app_of(FakeInference(), bounds)) as client:
        return await client.post(INFER, content=body, headers=given)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("gzip", GZIPPED),
        ("x-gzip", GZIPPED),
        ("GZip ", GZIPPED),
        ("deflate", zlib.compress(GOOD)),
        ("deflate", raw_deflate(GOOD)),
        ("identity", GOOD),
        ("", GOOD),
    ],
)
async def test_compressed_requests(name: str, body: bytes) -> None:
    assert (await infer(body, content_encoding=name)).json()["outputs"][0]["data"] == [2, 4, 6, 9]


@pytest.mark.parametrize("name", ["br", "zstd", "gzip, deflate", "gzip,gzip", "nonsense"])
async def test_other_encodings_are_refused(name: str) -> None:
    answer = await infer(GZIPPED, content_encoding=name)
    assert answer.status_code == 415
    expected = f'content encoding: expected gzip or deflate, got "{name}"'
    assert answer.json()["error"] == expected


async def test_several_encoding_headers_are_several_encodings() -> None:
    headers = [("content-encoding", "gzip"), ("content-encoding", "identity")]
    async with client_of(app_of(FakeInference())) as client:
        answer = await client.post(INFER, content=GZIPPED, headers=headers)
    assert answer.status_code == 415


async def test_the_limit_holds_for_what_comes_out() -> None:
    bounds = HttpSettings(max_body_bytes=1000)
    fits = await infer(
        gzip.compress(GOOD + b" " * (1000 - len(GOOD))), bounds, content_encoding="gzip"
    )
    assert fits.status_code == 200
    over = await infer(gzip.compress(GOOD + b" " * 1001), bounds, content_encoding="gzip")
    assert over.status_code == 413
    assert over.headers["connection"] == "close"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_bomb_costs_little_more_than_the_limit(coding: Coding) -> None:
    limit = 4 * PIECE_BYTES
    compress: Any = gzip.compress if coding == "gzip" else zlib.compress
    bomb = compress(bytes(256 * PIECE_BYTES), 9)
    bounds = HttpSettings(max_body_bytes=limit)
    await infer(GOOD, bounds)
    tracemalloc.start()
    try:
        answer = await infer(bomb, bounds, content_encoding=coding)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status_code == 413
    assert peak < 3 * limit


ZEROS = orjson.dumps({"inputs": [x_input(shape=[8, 4], data=[0.125] * 32)]})


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_large_answers_are_compressed_for_those_who_ask(coding: str) -> None:
    bounds = HttpSettings(compress_min_bytes=100)
    plain = await infer(ZEROS, bounds, accept_encoding="identity")
    packed = await infer(ZEROS, bounds, accept_encoding=coding)
    assert "content-encoding" not in plain.headers
    assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
    assert packed.headers["content-encoding"] == coding
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])
    assert packed.json() == plain.json()


async def test_small_answers_are_not() -> None:
    answer = await infer(GOOD, accept_encoding="gzip")
    assert not {"content-encoding", "vary"} & set(answer.headers)


async def test_the_json_length_of_a_binary_answer_is_the_inflated_one() -> None:
    document = {**orjson.loads(ZEROS), "parameters": {"binary_data_output": True}}
    bounds = HttpSettings(compress_min_bytes=1)
    answer = await infer(orjson.dumps(document), bounds, accept_encoding="gzip")
    length = int(answer.headers["inference-header-content-length"])
    size = orjson.loads(answer.content[:length])["outputs"][0]["parameters"]["binary_data_size"]
    assert len(answer.content) == length + size  # httpx has inflated it

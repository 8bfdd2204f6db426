"""Corners of the protocol over a real socket, with uvicorn and httptools: datatypes, numbers beyond
them, odd JSON, and HTTP's own ways of sending a request."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pytest

from penstock.gateway.http.settings import HttpSettings
from penstock.shared.wire.tensors import NUMPY_OF, bf16_bits, bf16_values, encode_bytes_elements
from tests.unit.gateway.http.fakes import (
    FakeInference,
    FakeModel,
    app_of,
    interface,
    serving,
    spec,
    x_input,
)

GOOD = orjson.dumps({"inputs": [x_input()]})
BODY_TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def service() -> FakeInference:
    models = {name: FakeModel(interface([spec("v", name, -1)]), dict) for name in NUMPY_OF}
    service = FakeInference()
    service.models |= models
    return service


@pytest.fixture(scope="module")
def port(service: FakeInference) -> Iterator[int]:
    bounds = HttpSettings(body_timeout_s=BODY_TIMEOUT_S, compress_min_bytes=1000)
    with serving(app_of(service, bounds)) as port:
        yield port


Answer = tuple[int, dict[str, str], bytes]


class Connection:
    """A client that sends what it is told, byte by byte, and reads answers one by one."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *details: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> Answer:
        status = int(self._stream.readline().split()[1])
        headers = {}
        while line := self._stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(": ")
            headers[name.lower()] = value
        return status, headers, self._stream.read(int(headers.get("content-length", 0)))

    def at_end(self) -> bool:
        return self._stream.read(1) == b""


def request(
    body: bytes, *headers: str, model: str = "double", verb: str = "infer", framed: bool = True
) -> bytes:
    framing = (f"content-length: {len(body)}",) if framed else ()
    lines = (f"POST /v2/models/{model}/{verb} HTTP/1.1", "host: x", *framing, *headers, "", "")
    return "\r\n".join(lines).encode() + body


def ask(port: int, body: bytes, *headers: str, model: str = "double") -> Answer:
    with Connection(port) as connection:
        connection.send(request(body, *headers, model=model))
        return connection.answer()


def error_of(answer: Answer) -> str:
    return str(orjson.loads(answer[2])["error"])


def document(datatype: str, values: list[Any]) -> bytes:
    entry = {"name": "v", "datatype": datatype, "shape": [len(values)], "data": values}
    return orjson.dumps({"inputs": [entry]})


def binary(datatype: str, count: int, raw: bytes) -> tuple[bytes, str]:
    entry = {
        "name": "v",
        "datatype": datatype,
        "shape": [count],
        "parameters": {"binary_data_size": len(raw)},
    }
    text = orjson.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}})
    return text + raw, f"inference-header-content-length: {len(text)}"


def extremes(datatype: str) -> list[Any]:
    """Values that JSON can hold, to the datatype's limits."""
    if datatype == "BOOL":
        return [True, False]
    if datatype == "BYTES":
        return ["", "a", "ü€😀", '"\\\u0000\n']
    if datatype == "BF16":
        return [0.0, -1.5, 3.3895313892515355e38, 9.183549615799121e-41]
    dtype = NUMPY_OF[datatype]
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        return [0.0, -1.5, float(limits.max), float(limits.min), float(limits.smallest_subnormal)]
    return [0, 1, int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)]


def raw_of(datatype: str, values: list[Any]) -> bytes:
    if datatype == "BYTES":
        return encode_bytes_elements(values)
    if datatype == "BF16":
        return bf16_bits(np.array(values, np.float64)).astype("<u2").tobytes()
    return np.array(values, NUMPY_OF[datatype].newbyteorder("<")).tobytes()


@pytest.mark.parametrize("datatype", list(NUMPY_OF))
def test_every_datatype_in_json_and_binary(port: int, datatype: str) -> None:
    values = extremes(datatype)
    status, _, body = ask(port, document(datatype, values), model=datatype)
    assert status == 200, body
    (output,) = orjson.loads(body)["outputs"]
    assert (output["datatype"], output["shape"]) == (datatype, [len(values)])
    assert raw_of(datatype, output["data"]) == raw_of(datatype, values)
    raw = raw_of(datatype, values)
    sent, header = binary(datatype, len(values), raw)
    status, headers, body = ask(port, sent, header, model=datatype)
    assert status == 200, body
    assert body[int(headers["inference-header-content-length"]) :] == raw


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_what_is_no_number_passes_in_binary_and_is_null_in_json(port: int, datatype: str) -> None:
    bits = {"FP16": "<HHH", "BF16": "<HHH", "FP32": "<III", "FP64": "<QQQ"}[datatype]
    specials = {
        "FP16": (0x7E00, 0x7C00, 0xFC00),
        "BF16": (0x7FC0, 0x7F80, 0xFF80),
        "FP32": (0x7FC00000, 0x7F800000, 0xFF800000),
        "FP64": (0x7FF8 << 48, 0x7FF0 << 48, 0xFFF0 << 48),
    }[datatype]
    raw = struct.pack(bits, *specials)
    sent, header = binary(datatype, 3, raw)
    status, headers, body = ask(port, sent, header, model=datatype)
    assert (status, body[int(headers["inference-header-content-length"]) :]) == (200, raw)
    plain = sent.replace(b"true", b"null")  # as long as before
    assert orjson.loads(ask(port, plain, header, model=datatype)[2])["outputs"][0]["data"] == [
        None,
        None,
        None,
    ]


def test_bf16_rounds_to_the_nearest_and_ties_to_even(port: int) -> None:
    tie = 1 + 2**-8
    values = [tie, tie + 2**-40, tie - 2**-40, 1 + 3 * 2**-8, 3.14159]
    _, _, body = ask(port, document("BF16", values), model="BF16")
    rounded = orjson.loads(body)["outputs"][0]["data"]
    assert rounded == [1.0, 1.0078125, 1.0, 1.015625, 3.140625]
    everything = np.arange(65536, dtype=np.uint16)
    finite = everything[np.isfinite(bf16_values(everything))]
    assert np.array_equal(bf16_bits(bf16_values(finite).astype(np.float64)), finite)


@pytest.mark.parametrize(
    ("datatype", "literal", "named"),
    [
        (
            "FP32",
            "1e39",
            "expected FP32 numbers of magnitude up to 3.40282e+38, got 1e+39 at data[0]",
        ),
        ("FP32", "3.4028236e38", "expected FP32 numbers of magnitude"),
        ("FP16", "65520", "expected FP16 numbers of magnitude up to 65504, got 65520 at data[0]"),
        ("BF16", "3.4e38", "expected BF16 numbers of magnitude up to 3.38953e+38, got 3.4e+38 at"),
        ("FP32", "1e400", "got a number beyond the range of FP64 at data[0]"),
        ("FP64", "-1e400", "got a number beyond the range of FP64 at data[0]"),
        ("FP32", "NaN", "expected finite numbers"),
        ("FP32", "Infinity", "expected finite numbers"),
        ("UINT8", "300", "expected whole UINT8 numbers from 0 to 255, got 300 at data[0]"),
        ("UINT8", "-1", "expected whole UINT8 numbers from 0 to 255, got -1 at data[0]"),
        ("INT8", "128", "expected whole INT8 numbers from -128 to 127, got 128 at data[0]"),
        ("INT64", "9223372036854775808", "expected whole INT64 numbers from"),
        ("UINT64", "18446744073709551616", "expected whole UINT64 numbers from"),
        ("INT32", "1.5", "written without fraction or exponent"),
        ("BOOL", "1", "expected BOOL elements (true or false), got 1 at data[0]"),
        ("BYTES", "1", "expected BYTES elements (strings), got 1 at data[0]"),
        ("FP32", "true", "expected FP32 numbers, got true at data[0]"),
        ("FP32", '"1"', 'expected FP32 numbers, got "1" at data[0]'),
        ("FP32", "null", "expected FP32 numbers, got null at data[0]"),
    ],
)
def test_values_beyond_a_datatype_are_named(
    port: int, datatype: str, literal: str, named: str
) -> None:
    body = document(datatype, [0]).replace(b"[0]", f"[{literal}]".encode())
    answer = ask(port, body, model=datatype)
    assert answer[0] == 400
    assert error_of(answer).startswith('input "v": ')
    assert named in error_of(answer)


def test_request_wide_binary_output_and_its_exceptions(port: int) -> None:
    outputs = [{"name": "y", "parameters": {"binary_data": False}}]
    parameters = {"binary_data_output": True}
    whole = {"inputs": [x_input()], "parameters": parameters}
    assert ask(port, orjson.dumps(whole))[1]["content-type"] == "application/octet-stream"
    plain = ask(port, orjson.dumps({**whole, "outputs": outputs}))
    assert plain[1]["content-type"] == "application/json"


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"inputs":[{"data":['])
def test_deep_nesting_is_refused_cheaply(port: int, opening: str) -> None:
    body = (opening * 200_000).encode()
    with Connection(port) as connection:
        started_s = time.perf_counter()
        connection.send(request(body))
        answer = connection.answer()
        took_s = time.perf_counter() - started_s
        assert answer[0] == 400
        assert "request: expected JSON" in error_of(answer)
        assert took_s < 2.0
        connection.send(request(GOOD))
        assert connection.answer()[0] == 200


def test_closed_deep_nesting_in_a_tensor(port: int) -> None:
    body = GOOD.replace(b"[1,2,3,4.5]", b"[" * 200_000 + b"]" * 200_000)
    assert ask(port, body)[0] == 400
    shallow = GOOD.replace(b"[1,2,3,4.5]", b"[" * 900 + b"]" * 900)
    answer = ask(port, shallow)
    assert answer[0] == 400
    assert error_of(answer).startswith('input "x": ')


def test_of_duplicate_keys_the_last_counts(port: int) -> None:
    body = b'{"inputs":[],"id":"a","id":"b",' + GOOD[1:]
    status, _, answer = ask(port, body)
    assert (status, orjson.loads(answer)["id"]) == (200, "b")


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\\ud800", b"\x01"]
)
def test_bad_utf8_is_refused(port: int, bad: bytes) -> None:
    answer = ask(port, document("BYTES", ["?"]).replace(b"?", bad), model="BYTES")
    assert answer[0] == 400
    assert error_of(answer).startswith("request: expected JSON, got a fault at line 1, column")


@pytest.mark.parametrize("prefix", [b"\xef\xbb\xbf", b"\xff\xfe", b"\x00"])
def test_other_encodings_of_json_are_refused(port: int, prefix: bytes) -> None:
    assert ask(port, prefix + GOOD)[0] == 400


def test_bytes_that_json_cannot_hold(port: int, service: FakeInference) -> None:
    sent, header = binary("BYTES", 1, encode_bytes_elements([b"\xff\xfe"]))
    status, _, body = ask(port, sent, header, model="BYTES")
    assert (status, body[-2:]) == (200, b"\xff\xfe")
    plain = ask(port, sent.replace(b"true", b"null"), header, model="BYTES")
    assert plain[0] == 500
    assert "not UTF-8 text" in error_of(plain)


def test_chunked_bodies(port: int) -> None:
    for size in (1, 10, 1000):
        chunks = [GOOD[at : at + size] for at in range(0, len(GOOD), size)]
        body = b"".join(b"%x;x=y\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
        with Connection(port) as connection:
            connection.send(request(body, "transfer-encoding: chunked", framed=False))
            assert connection.answer()[0] == 200


def test_compressed_and_chunked_and_binary_at_once(port: int) -> None:
    sent, header = binary("INT16", 5000, bytes(10_000))
    packed = gzip.compress(sent)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    headers = ("content-encoding: gzip", "accept-encoding: gzip", header)
    with Connection(port) as connection:
        chunked = "transfer-encoding: chunked"
        connection.send(request(body, chunked, *headers, model="INT16", framed=False))
        status, answered, answer = connection.answer()
    assert (status, answered["content-encoding"]) == (200, "gzip")
    length = int(answered["inference-header-content-length"])
    assert gzip.decompress(answer)[length:] == bytes(10_000)
    assert len(answer) < 1000


def test_both_lengths_are_refused(port: int) -> None:
    with Connection(port) as connection:
        connection.send(request(GOOD, "transfer-encoding: chunked"))
        assert connection.answer()[0] == 400
        assert connection.at_end()


def test_expect_100_continue(port: int) -> None:
    head = request(b"", f"content-length: {len(GOOD)}", "expect: 100-continue", framed=False)
    with Connection(port) as connection:
        connection.send(head)
        assert connection.answer()[0] == 100
        connection.send(GOOD)
        assert connection.answer()[0] == 200
    refused = request(b"", "content-length: 9", "expect: 100-continue", "content-type: text/html")
    with Connection(port) as connection:
        connection.send(refused.replace(b"content-length: 0\r\n", b""))
        assert connection.answer()[0] == 415  # without asking for the body


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    with Connection(port) as connection:
        bodies = [orjson.dumps({"id": str(n), "inputs": [x_input()]}) for n in range(20)]
        bodies[7] = b"{"
        connection.send(b"".join(map(request, bodies)))
        for number in range(20):
            status, _, body = connection.answer()
            if number == 7:
                assert status == 400
            else:
                assert (status, orjson.loads(body)["id"]) == (200, str(number))


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v2", "GET, HEAD"),
        ("/v2/models/double/stats", "GET, HEAD"),
        ("/v2/models/double/config", "GET, HEAD"),
        ("/v1/models", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/v2/health/ready", "GET, HEAD"),
        ("/v2/models/double/ready", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/v2/models/double/infer", "POST"),
        ("/v2/repository/index", "POST"),
    ],
)
def test_allow_lists_head_where_it_works(port: int, path: str, allow: str) -> None:
    def send(method: str) -> tuple[int, dict[str, str]]:
        with Connection(port) as connection:
            connection.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            connection.socket.shutdown(socket.SHUT_WR)
            status, headers, _ = connection.answer() if method != "HEAD" else head(connection)
            return status, headers

    def head(connection: Connection) -> Answer:
        received = b""
        connection.socket.settimeout(0.3)
        try:
            while more := connection.socket.recv(65536):
                received += more
        except TimeoutError:
            pass
        assert received.endswith(b"\r\n\r\n"), "HEAD was answered with a body"
        return int(received.split()[1]), {}, b""

    status, headers = send("DELETE")
    assert (status, headers["allow"]) == (405, allow)
    assert send("HEAD")[0] == (200 if "HEAD" in allow else 405)


@pytest.mark.parametrize("sent", [b"", b"{", b'{"inputs"'])
def test_a_body_that_trickles_in_is_given_up(port: int, sent: bytes) -> None:
    with Connection(port) as connection:
        connection.send(request(sent, "content-length: 1000", framed=False))
        status, headers, body = connection.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert orjson.loads(body)["error"] == (
            "request body: expected all of it within 0.4 s, got a part"
        )
        assert connection.at_end()


def test_a_drop_now_and_then_does_not_help(port: int) -> None:
    with Connection(port) as connection:
        connection.send(request(b"", "content-length: 1000", framed=False))
        started_s = time.monotonic()
        with contextlib.suppress(OSError):  # reset or broken, once the server has closed
            while time.monotonic() < started_s + 8:
                connection.send(b" ")
                time.sleep(0.05)
        assert time.monotonic() < started_s + 5
    assert ask(port, GOOD)[0] == 200


def test_an_answer_that_takes_its_time_is_not_the_bodys_fault(port: int) -> None:
    with Connection(port) as connection:
        connection.send(request(GOOD))
        assert connection.answer()[0] == 200
        time.sleep(BODY_TIMEOUT_S * 1.5)  # idle between requests
        connection.send(request(GOOD))
        assert connection.answer()[0] == 200

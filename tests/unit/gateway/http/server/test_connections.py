"""What only a real connection shows: clients that leave, bodies that do not end, keep-alive."""

from __future__ import annotations

import contextlib
import gc
import http.client
import socket
from collections.abc import Iterator

import orjson
import pytest
from prometheus_client import CollectorRegistry

from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.http.server.connection import HEAD_BYTES_MAX
from penstock.gateway.http.server.heads import HEAD_BYTES_MAX as KNOWN_BYTES_MAX
from penstock.gateway.http.server.heads import head_of
from penstock.gateway.http.settings import HttpSettings
from tests.unit.gateway.http.fakes import FakeInference, app_of, serving, x_input

INFER = "/v2/models/double/infer"
GOOD = orjson.dumps({"inputs": [x_input()]})
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def service() -> FakeInference:
    return FakeInference()


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def port(service: FakeInference, registry: CollectorRegistry) -> Iterator[int]:
    app = app_of(service, HttpSettings(max_body_bytes=LIMIT), registry)
    with serving(app, bounds=ClientBounds(linger_s=5)) as port:
        yield port


@pytest.fixture(autouse=True)
def _fresh(service: FakeInference) -> None:
    service.hang = False
    service.calls.clear()
    service.started.clear()
    service.cancelled.clear()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def head(length: int | None, *more: str) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = [f"POST {INFER} HTTP/1.1", "host: x", framing, *more, "", ""]
    return "\r\n".join(lines).encode()


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, response.read()


def test_a_client_that_leaves_cancels_its_call(
    port: int, service: FakeInference, registry: CollectorRegistry
) -> None:
    service.hang = True
    with connect(port) as connection:
        connection.sendall(head(len(GOOD)) + GOOD)
        assert service.started.wait(10)
        assert not service.cancelled.is_set()
    assert service.cancelled.wait(10)
    service.hang = False
    with connect(port) as connection:  # answered by the same loop, so after the one above
        connection.sendall(head(len(GOOD)) + GOOD)
        assert read_response(connection)[0] == 200
    labels = {"model": "double", "version": "2", "code": "cancelled"}
    assert registry.get_sample_value("penstock_gateway_requests_total", labels) == 1
    assert registry.get_sample_value("penstock_gateway_requests_in_flight") == 0


def test_a_client_that_leaves_within_its_body_calls_nothing(
    port: int, service: FakeInference, registry: CollectorRegistry
) -> None:
    with connect(port) as connection:
        connection.sendall(head(len(GOOD)) + GOOD[:10])
    with connect(port) as connection:
        connection.sendall(head(len(GOOD)) + GOOD)
        assert read_response(connection)[0] == 200
    assert len(service.calls) == 1


def test_keep_alive_serves_good_and_bad_requests_in_turn(port: int) -> None:
    with connect(port) as connection:
        for body, status in ((GOOD, 200), (b"{", 400), (GOOD, 200), (b"{}", 400), (GOOD, 200)):
            connection.sendall(head(len(body)) + body)
            assert read_response(connection)[0] == status
        connection.sendall(head(len(GOOD), "content-type: text/html") + GOOD)
        assert read_response(connection)[0] == 415  # its body was never read by us
        connection.sendall(head(len(GOOD)) + GOOD)
        assert read_response(connection)[0] == 200


def test_pipelined_requests_are_all_answered(port: int, service: FakeInference) -> None:
    with connect(port) as connection:
        connection.sendall((head(len(GOOD)) + GOOD) * 3)
        status, _, _ = read_response(connection)
        assert status == 200
        assert not service.cancelled.is_set()


def test_a_body_announced_as_too_large_is_answered_at_once(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(head(LIMIT + 1))
        status, headers, body = read_response(connection)
        assert (status, headers["connection"]) == (413, "close")
        assert orjson.loads(body)["error"].startswith(
            "request body: expected at most 1000000 bytes"
        )


def test_a_body_that_is_sent_although_too_large_gets_its_answer(port: int) -> None:
    size = LIMIT * 8
    with connect(port) as connection:
        connection.sendall(head(size))
        block = bytes(65536)
        for _ in range(size // len(block)):
            connection.sendall(block)
        connection.sendall(bytes(size % len(block)))
        assert read_response(connection)[0] == 413
        assert connection.recv(1) == b""


def test_a_body_that_turns_out_too_large_is_cut_off(port: int, service: FakeInference) -> None:
    with connect(port) as connection:
        connection.sendall(head(None))
        block = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(LIMIT // 65536 + 10):
            connection.sendall(block)
        status, headers, _ = read_response(connection)
        assert (status, headers["connection"]) == (413, "close")
    assert service.calls == []


def test_a_head_without_an_end_is_cut_off(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nx-long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                connection.sendall(b"a" * HEAD_BYTES_MAX)
        assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def test_refused_requests_leave_no_garbage(port: int) -> None:
    with connect(port) as connection:
        for body in (b"{", b"{}"):
            gc.collect()
            gc.disable()
            try:
                for _ in range(20):  # a header that comes twice takes the ordinary way
                    connection.sendall(head(len(body), "x-twice: 1", "x-twice: 2") + body)
                    read_response(connection)
                assert gc.collect() < 100
            finally:
                gc.enable()


def test_long_urls_are_not_remembered() -> None:
    headers = [(b"content-length", b"2")]
    assert head_of(b"/v2/models/double/infer", headers, LIMIT) is not None
    assert head_of(b"/v2/models/%b/infer" % (b"a" * KNOWN_BYTES_MAX), headers, LIMIT) is None


def test_a_body_in_many_pieces(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(head(None))
        for offset in range(0, len(GOOD), 7):
            piece = GOOD[offset : offset + 7]
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        status, _, body = read_response(connection)
        assert status == 200
        assert orjson.loads(body)["outputs"][0]["data"] == [2, 4, 6, 9]


def test_expect_100_continue(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(head(len(GOOD), "expect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_response(connection)[0] == 200
    with connect(port) as connection:
        connection.sendall(head(LIMIT + 1, "expect: 100-continue"))
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_head_of_metadata_has_headers_only(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"HEAD /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        received = b""
        while more := connection.recv(65536):
            received += more
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("direct", [True, False])
def test_who_is_cut_off_at_the_end_counts_as_that(direct: bool) -> None:
    service, registry = FakeInference(), CollectorRegistry()
    service.hang = True
    with serving(app_of(service, None, registry), direct=direct) as port:
        connection = connect(port)
        connection.sendall(head(len(GOOD)) + GOOD)
        assert service.started.wait(10)
    with connection:
        assert read_response(connection)[0] == 503
    assert service.cancelled.is_set()
    codes = {
        sample.labels["code"]: sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "penstock_gateway_requests_total" and sample.value
    }
    assert codes == {"shutting_down": 1}

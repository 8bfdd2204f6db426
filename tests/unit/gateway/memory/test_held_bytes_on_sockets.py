"""What clients make a gateway hold on real connections, both ways, and that it is given back.

Each ending is played against a server with the short way and one without; after each, the budget
must read zero again, and another client must be answered.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import pytest

from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.memory.held_bytes import SMALL_BYTES_MAX, HeldBytes
from tests.unit.gateway.http.fakes import (
    FakeInference,
    FakeModel,
    app_of,
    interface,
    serving,
    spec,
    x_input,
)

pytestmark = pytest.mark.costly

GOOD = orjson.dumps({"inputs": [x_input()]})
INFER = "/v2/models/double/infer"
MAX_BODY_BYTES = 4 * 1024 * 1024
BYTES_MAX = 8 * 1024 * 1024
SMALL_SHARE = 1024 * 1024
ANSWER_BYTES = 3 * 1024 * 1024
WAIT_S = 10.0

BIG = FakeModel(
    interface([spec("x", "FP32", -1, 4)], [spec("y", "UINT8", -1, ANSWER_BYTES)]),
    lambda arrays: {"y": np.zeros((1, ANSWER_BYTES), np.uint8)},
)


@dataclass
class Bench:
    """A server and what its clients make it hold."""

    port: int
    held: HeldBytes
    service: FakeInference
    bounds: ClientBounds

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """The loop runs in another thread: ask it, by requests, until it is so."""
        for _ in range(2000):
            if condition():
                return
            threading.Event().wait(0.005)
        raise AssertionError(f"it stays {self.held!r}")

    def bystander(self) -> int:
        with self.connect() as connection:
            connection.sendall(head(len(GOOD)) + GOOD)
            return answer(connection)[0]


@pytest.fixture(params=[True, False], ids=["short way", "ordinary way"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    service, held = FakeInference(), HeldBytes(BYTES_MAX, SMALL_SHARE)
    service.models["big"] = BIG
    settings = HttpSettings(max_body_bytes=MAX_BODY_BYTES, body_timeout_s=1.5)
    bounds = ClientBounds(answer_timeout_s=0.5, linger_s=0.5)
    app = app_of(service, settings, held=held)
    with serving(app, direct=request.param, bounds=bounds) as port:
        yield Bench(port, held, service, bounds)
    assert held.total == 0


def head(length: int | str | None, *more: str, path: str = INFER) -> bytes:
    framing = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "host: x", framing, *more, "", ""]).encode()


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return response.status, headers, response.read()


def ends(connection: socket.socket) -> bool:
    """Whether the server has ended the connection; what comes before is read."""
    with contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    return True


def is_ended_while_it_sends(connection: socket.socket) -> bool:
    """What comes is thrown away for a while, and not for ever."""
    try:
        for _ in range(1000):
            connection.sendall(bytes(65536))
            threading.Event().wait(0.005)
    except ConnectionError:
        return True
    return False


HALF = bytes(2 * 1024 * 1024)
BIG_WANTED = orjson.dumps(
    {"inputs": [x_input()], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
)


# Bodies that arrive


def test_a_client_that_leaves_within_its_body_gives_all_back(bench: Bench) -> None:
    with bench.connect() as connection:
        connection.sendall(head(MAX_BODY_BYTES) + HALF)
        bench.wait_for(lambda: bench.held.by_kind[0] >= len(HALF) // 2)
    bench.wait_for(lambda: bench.held.total == 0)


def test_a_chunked_body_counts_as_it_arrives(bench: Bench) -> None:
    with bench.connect() as connection:
        connection.sendall(head(None) + b"%x\r\n" % len(HALF) + HALF + b"\r\n")
        bench.wait_for(lambda: bench.held.by_kind[0] == len(HALF))
    bench.wait_for(lambda: bench.held.total == 0)


def test_a_compressed_body_counts_by_what_it_stands_for(bench: Bench) -> None:
    packed = gzip.compress(bytes(3_000_000))
    with bench.connect() as connection:
        connection.sendall(head(len(packed) + 1, "content-encoding: gzip") + packed)
        bench.wait_for(lambda: bench.held.by_kind[0] == 3_000_000)
    bench.wait_for(lambda: bench.held.total == 0)


def test_a_body_that_takes_too_long_gives_all_back(bench: Bench) -> None:
    with bench.connect() as connection:
        connection.sendall(head(MAX_BODY_BYTES) + HALF)
        assert answer(connection)[0] == 408
        bench.wait_for(lambda: bench.held.total == 0)
        assert ends(connection)


def test_a_chunked_body_over_the_limit_gives_all_back(bench: Bench) -> None:
    with bench.connect() as connection:
        connection.sendall(head(None))
        for _ in range(3):
            connection.sendall(b"%x\r\n" % len(HALF) + HALF + b"\r\n")
        status, headers, _ = answer(connection)
        assert (status, headers["connection"]) == (413, "close")
        bench.wait_for(lambda: bench.held.total == 0)


def test_large_bodies_beyond_the_budget_get_429_and_small_ones_go_on(bench: Bench) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(bench.connect()) for _ in range(3)]
        for connection in connections:
            connection.sendall(head(MAX_BODY_BYTES) + HALF)
        bench.wait_for(lambda: bench.held.by_kind[0] == 3 * len(HALF))
        late = stack.enter_context(bench.connect())
        late.sendall(head(MAX_BODY_BYTES) + HALF)
        status, headers, body = answer(late)
        assert (status, headers["connection"]) == (429, "close")
        assert int(headers["retry-after"]) >= 1
        assert b"as many bytes as it may" in body
        assert bench.held.total <= BYTES_MAX - SMALL_SHARE
        assert bench.bystander() == 200
    bench.wait_for(lambda: bench.held.total == 0)


def test_what_comes_with_the_rest_of_a_refused_body_is_not_answered(bench: Bench) -> None:
    with bench.connect() as connection:
        bench.held.take(0, BYTES_MAX - SMALL_SHARE, True)
        body = GOOD[:-1] + b" " * 150_000 + b"}"
        connection.sendall(head(len(body)) + body + head(len(GOOD)) + GOOD)
        assert answer(connection)[0] == 429
        bench.held.give_back(0, BYTES_MAX - SMALL_SHARE, True)
    assert bench.bystander() == 200
    assert len(bench.service.calls) == 1


def test_a_slow_small_body_does_not_take_the_share_of_quick_ones(bench: Bench) -> None:
    part = bytes(SMALL_BYTES_MAX - 1)
    with bench.connect() as connection:
        connection.sendall(head(SMALL_BYTES_MAX) + part)
        bench.wait_for(lambda: bench.held.by_kind[0] == len(part))
        bench.wait_for(lambda: bench.held.ordinary == len(part))
    bench.wait_for(lambda: bench.held.total == 0)


# Open calls


def test_a_large_open_call_whose_client_leaves_gives_all_back(bench: Bench) -> None:
    bench.service.hang = True
    body = GOOD[:-1] + b" " * 3_000_000 + b"}"
    with bench.connect() as connection:
        connection.sendall(head(len(body)) + body)
        assert bench.service.started.wait(WAIT_S)
        bench.wait_for(lambda: bench.held.by_kind[1] >= 2_900_000)
    assert bench.service.cancelled.wait(WAIT_S)
    bench.wait_for(lambda: bench.held.total == 0)


def test_a_call_that_fails_gives_all_back(bench: Bench) -> None:
    bench.service.failure = RuntimeError("a bug")
    body = GOOD[:-1] + b" " * 3_000_000 + b"}"
    with bench.connect() as connection:
        connection.sendall(head(len(body)) + body)
        assert answer(connection)[0] == 500
    bench.wait_for(lambda: bench.held.total == 0)


# Answers


def ask_big(connection: socket.socket) -> None:
    path = "/v2/models/big/infer"
    connection.sendall(head(len(BIG_WANTED), path=path) + BIG_WANTED)


def slow_reader(bench: Bench) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(WAIT_S)
    connection.connect(("127.0.0.1", bench.port))
    return connection


def test_an_answer_that_is_not_read_counts_and_its_client_is_cut_off(bench: Bench) -> None:
    bench.bounds.answer_timeout_s = 1.0
    with slow_reader(bench) as connection:
        ask_big(connection)
        bench.wait_for(lambda: bench.held.by_kind[2] > 0)
        assert bench.bystander() == 200
        bench.wait_for(lambda: bench.bounds.cut_off == 1)
        bench.wait_for(lambda: bench.held.total == 0)


def test_a_client_that_leaves_before_it_reads_gives_all_back(bench: Bench) -> None:
    bench.bounds.answer_timeout_s = 60.0
    with slow_reader(bench) as connection:
        ask_big(connection)
        bench.wait_for(lambda: bench.held.by_kind[2] > 0)
    bench.wait_for(lambda: bench.held.total == 0)


def test_a_large_answer_that_is_read_is_whole_and_gives_all_back(bench: Bench) -> None:
    with bench.connect() as connection:
        for _ in range(3):
            ask_big(connection)
            status, _, body = answer(connection)
            assert status == 200
            assert len(body) > ANSWER_BYTES
    bench.wait_for(lambda: bench.held.total == 0)


def test_pipelined_requests_wait_while_answers_are_not_read(bench: Bench) -> None:
    bench.bounds.answer_timeout_s = 60.0
    one = head(len(BIG_WANTED), path="/v2/models/big/infer") + BIG_WANTED
    with slow_reader(bench) as connection:
        connection.sendall(one * 6)
        bench.wait_for(lambda: bench.held.by_kind[2] > 0)
        assert bench.bystander() == 200
        assert len(bench.service.calls) <= 4  # the bystander's, and two that were let in
        assert bench.held.total <= 3 * ANSWER_BYTES
        heads, left_bytes = 0, 6 * ANSWER_BYTES
        while left_bytes > 0:  # answers are zeros, but for what is in front
            data = connection.recv(1024 * 1024)
            heads += data.count(b"HTTP/1.1 200")
            left_bytes -= data.count(0)
        assert (heads, left_bytes) == (6, 0)
    bench.wait_for(lambda: bench.held.total == 0)


def test_answers_for_which_there_is_no_room_are_refused(bench: Bench) -> None:
    bench.bounds.answer_timeout_s = 60.0
    with contextlib.ExitStack() as stack:
        statuses = []
        for _ in range(16):  # the system's buffers take some of each
            connection = stack.enter_context(slow_reader(bench))
            ask_big(connection)
            statuses.append(connection.recv(12))
            assert bench.held.total <= BYTES_MAX
        assert statuses[0] == b"HTTP/1.1 200"
        assert b"HTTP/1.1 429" in statuses
        assert bench.bystander() == 200
    bench.wait_for(lambda: bench.held.total == 0)


# Refused bodies

ENDLESS = 2**63 - 1
REFUSED = {
    "length of 2^63-1": (head(ENDLESS), 400),
    "length beyond the limit": (head(10**15), 413),
    "negative length": (head(-1), 400),
    "no number": (head("ten"), 400),
    "two lengths": (head(5, "content-length: 6"), 400),
    "length and chunks": (head(5, "transfer-encoding: chunked"), 400),
    "content type": (head(10**6, "content-type: text/html"), 415),
    "coding": (head(10**6, "content-encoding: br"), 415),
    "no such path": (head(10**6, path="/nowhere"), 404),
    "no such method": (head(10**6).replace(b"POST", b"PUT", 1), 405),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_body_gets_its_answer_and_the_connection_ends(bench: Bench, name: str) -> None:
    sent, status = REFUSED[name]
    with bench.connect() as connection:
        connection.sendall(sent + bytes(300_000))
        got, headers, _ = answer(connection)
        assert (got, headers["connection"]) == (status, "close")
        assert is_ended_while_it_sends(connection)
    assert bench.bystander() == 200
    bench.wait_for(lambda: bench.held.total == 0)


def test_all_is_given_back_when_the_server_leaves() -> None:
    held = HeldBytes(BYTES_MAX, SMALL_SHARE)
    for direct in (True, False):
        with contextlib.ExitStack() as stack:
            app = app_of(FakeInference(), HttpSettings(), held=held)
            port = stack.enter_context(serving(app, direct=direct))
            connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
            connection.sendall(head(MAX_BODY_BYTES) + HALF)
            bench = Bench(port, held, FakeInference(), ClientBounds())
            bench.wait_for(lambda: held.by_kind[0] == len(HALF))
        connection.close()
        assert held.total == 0


def test_an_id_is_bounded(bench: Bench) -> None:
    for size, status in ((1024, 200), (1025, 400), (1_000_000, 400)):
        body = orjson.dumps({"id": "a" * size, "inputs": [x_input()]})
        with bench.connect() as connection:
            connection.sendall(head(len(body)) + body)
            got, _, text = answer(connection)
            assert got == status
            assert got == 200 or (b"at most 1024 characters" in text and len(text) < 200)


OVERHEAD_BYTES = 16 * 1024 * 1024
"""Beside the budget: a read and a write buffer for each connection, an answer that is being built,
and what the allocator keeps."""

CROWD = 48


def resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.parametrize("what", ["bodies", "answers"])
def test_memory_stays_within_the_budget_and_a_stated_overhead(bench: Bench, what: str) -> None:
    """A crowd that asks for 96 MiB and more of a gateway that may hold 8."""
    bench.bounds.answer_timeout_s = 60.0
    with bench.connect() as connection:
        ask_big(connection)
        answer(connection)
    before = most = resident_bytes()
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            connection = stack.enter_context(slow_reader(bench))
            with contextlib.suppress(ConnectionError):  # some are refused
                if what == "bodies":
                    connection.sendall(head(MAX_BODY_BYTES) + HALF)
                else:
                    for _ in range(4):  # the system's buffers take one of them
                        ask_big(connection)
                    connection.recv(12)
            assert bench.bystander() == 200  # by the same loop, which has had its turn
            assert bench.held.total <= BYTES_MAX
            most = max(most, resident_bytes())
        assert bench.bystander() == 200
    assert most - before <= BYTES_MAX + OVERHEAD_BYTES
    bench.wait_for(lambda: bench.held.total == 0)

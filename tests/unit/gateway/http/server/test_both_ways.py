"""The short way of inference and the ordinary route give the same answers to the same bytes.

Two servers around equal services, one with the short way and one without, are sent the same: what
they answer may differ in dates, ids and times only.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from penstock.gateway.clients.origin_policy import OriginPolicy
from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.http.server.connection import HEAD_BYTES_MAX
from penstock.gateway.http.settings import HttpSettings
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from tests.support.examples import examples
from tests.unit.gateway.http.fakes import FakeInference, app_of, serving, x_input

MAX_BODY_BYTES = 100_000
SETTINGS = HttpSettings(
    max_body_bytes=MAX_BODY_BYTES,
    body_timeout_s=0.5,
    compress_min_bytes=2000,
    origins=OriginPolicy(frozenset({"gateway"}), frozenset({"https://app.example"})),
)


@dataclass
class Way:
    """A server, and what is behind it."""

    service: FakeInference
    registry: CollectorRegistry
    port: int

    def send(self, *pieces: bytes, pause_s: float = 0.0) -> bytes:
        """All that comes back on a connection that is sent these pieces, and then no more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for index, piece in enumerate(pieces):
                if index and pause_s:
                    time.sleep(pause_s)
                connection.sendall(piece)
            return _read_until_quiet(connection, pieces)

    def counted(self) -> list[str]:
        """Requests by model, version and outcome, as they are shown to Prometheus."""
        lines = generate_latest(self.registry).decode().splitlines()
        return sorted(line for line in lines if line.startswith("penstock_gateway_requests_total"))


def _read_until_quiet(connection: socket.socket, pieces: tuple[bytes, ...]) -> bytes:
    """Read as many answers as there are requests, or to the end of the connection."""
    wanted = b"".join(pieces).count(b" HTTP/1.")
    data = b""
    while len(_answers(data)) < wanted:
        try:
            more = connection.recv(65536)
        except TimeoutError:
            raise AssertionError(f"no more came after {data!r:.500}") from None
        if not more:
            break
        data += more
    return data


def _answers(data: bytes) -> list[tuple[str, dict[str, str], bytes]]:
    """Whole answers at the front of some bytes; interim ones are passed over."""
    found = []
    while b"\r\n\r\n" in data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        if " 100 " in status:
            data = rest
            continue
        headers = dict(line.split(": ", 1) for line in lines)
        if headers.get("transfer-encoding") == "chunked":
            if b"0\r\n\r\n" not in rest:
                break
            body, _, data = rest.partition(b"0\r\n\r\n")
        else:
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                break
            body, data = rest[:length], rest[length:]
        found.append((status, headers, body))
    return found


def comparable(data: bytes) -> list[tuple[str, dict[str, str], bytes]]:
    """Answers without what differs between any two."""
    answers = _answers(data)
    for _, headers, _ in answers:
        headers.pop("date", None)
        if re.fullmatch("[0-9a-f]{32}", headers.get("x-request-id", "")):
            headers["x-request-id"] = "new"
        if "server-timing" in headers:
            headers["server-timing"] = re.sub(r"total;dur=[0-9.]+", "", headers["server-timing"])
    return answers


@pytest.fixture(scope="module")
def ways() -> Iterator[tuple[Way, Way]]:
    """The short way and the ordinary one."""
    services = FakeInference(), FakeInference()
    registries = CollectorRegistry(), CollectorRegistry()
    apps = [app_of(*each) for each in zip(services, [SETTINGS] * 2, registries, strict=True)]
    with (
        serving(apps[0], bounds=ClientBounds(linger_s=0.2)) as short,
        serving(apps[1], direct=False, bounds=ClientBounds(linger_s=0.2)) as ordinary,
    ):
        yield Way(services[0], registries[0], short), Way(services[1], registries[1], ordinary)


@pytest.fixture(autouse=True)
def _fresh(ways: tuple[Way, Way]) -> None:
    for way in ways:
        way.service.failure = None
        way.service.hang = False
        way.service.started.clear()
        way.service.cancelled.clear()
        way.service.calls.clear()


def request(
    body: bytes,
    *headers: str,
    path: str = "/v2/models/double/infer",
    method: str = "POST",
    version: str = "1.1",
    length: str | None = "",
    host: str = "gateway",
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", *headers]
    if length is not None:
        lines.append(f"Content-Length: {length or len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def document(**members: object) -> bytes:
    return orjson.dumps({"inputs": [x_input()], **members})


def rows_of(count: int) -> bytes:
    data = np.arange(4 * count, dtype=np.float32)
    return orjson.dumps({"inputs": [x_input(shape=[count, 4], data=data.tolist())]})


JSON_PART = orjson.dumps({"inputs": [x_input(data=None, parameters={"binary_data_size": 16})]})
JSON_PART = JSON_PART.replace(b'"data":null,', b"")
RAW = np.arange(4, dtype=np.float32).tobytes()
BINARY = request(
    JSON_PART + RAW,
    f"Inference-Header-Content-Length: {len(JSON_PART)}",
    "Content-Type: application/octet-stream",
)
SCORING = "/v2/models/double/invocations"
SCORED = b'{"inputs":[[1,2,3,4],[5,6,7,8]]}'
FORM = "application/x-www-form-urlencoded"
JSON = "Content-Type: application/json"
GOOD = request(document(id="7"), "Content-Type: application/json", "X-Request-Id: mine")
VALID = {
    "json": GOOD,
    "no content type": request(document()),
    "pinned": request(document(), path="/v2/models/double/versions/1/infer"),
    "binary in": BINARY,
    "binary out": request(document(parameters={"binary_data_output": True})),
    "name with a space": request(document(), path="/v2/models/my%20model/infer"),
    "query": request(document(), path="/v2/models/double/infer?verbose=1"),
    "timeout": request(document(), "X-Request-Timeout-Seconds: 3"),
    "preference": request(document(), "Prefer: wait=3"),
    "trace": request(document(), "traceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
    "many rows": request(rows_of(8)),
    "gzip wanted": request(rows_of(8), "Accept-Encoding: gzip"),
    "connection close": request(document(), "Connection: close"),
    "http 1.0": request(document(), version="1.0"),
    "http 1.0 kept": request(document(), "Connection: keep-alive", version="1.0"),
    "chunked": request(
        b"%x\r\n%b\r\n0\r\n\r\n" % (len(document()), document()),
        "Transfer-Encoding: chunked",
        length=None,
    ),
    "repeated header": request(document(), "X-Thing: 1", "X-Thing: 2"),
    "space behind a length": request(
        document(), f"Content-Length: {len(document())} ", length=None
    ),
    "upgrade not offered": request(
        document(), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMA"
    ),
    "a form's type, as curl": request(document(), f"Content-Type: {FORM}"),
    "a text's type, as a client": request(document(), "Content-Type: text/plain"),
    "by address": request(document(), host="127.0.0.1:8080"),
    "own page": request(document(), "Origin: http://gateway", JSON, "Sec-Fetch-Site: same-origin"),
    "listed page": request(document(), "Origin: https://app.example", JSON),
    "listed page, other site": request(
        document(), "Origin: https://app.example", JSON, "Sec-Fetch-Site: cross-site"
    ),
    "no page, in a browser's words": request(document(), "Sec-Fetch-Mode: cors", JSON),
    "mlflow": request(SCORED, JSON, path=SCORING),
    "mlflow pinned": request(SCORED, path="/v2/models/double/versions/1/invocations"),
    "mlflow csv": request(b"a,b,c,d\n1,2,3,4\n", "Content-Type: text/csv", path=SCORING),
    "mlflow timeout": request(SCORED, "X-Request-Timeout-Seconds: 3", JSON, path=SCORING),
    "web socket": request(document(), "Connection: Upgrade", "Upgrade: websocket"),
}
INVALID = {
    "no json": request(b"{"),
    "empty": request(b""),
    "no length": request(b"", length=None),
    "wrong shape": request(document(inputs=[x_input(shape=[1, 5])])),
    "wrong datatype": request(document(inputs=[x_input(datatype="INT64")])),
    "a boolean": request(document(inputs=[x_input(data=[1, 2, True, 4])])),
    "beyond FP32": request(document(inputs=[x_input(data=[1, 2, 1e39, 4])])),
    "a string": request(document(inputs=[x_input(data=[1, 2, "3", 4])])),
    "unknown model": request(document(), path="/v2/models/nothing/infer"),
    "unknown version": request(document(), path="/v2/models/double/versions/9/infer"),
    "content type": request(document(), "Content-Type: text/csv"),
    "other name": request(document(), host="evil.example"),
    "no name": request(document(), host=""),
    "foreign page": request(document(), "Origin: https://evil.example", JSON),
    "page without a name": request(document(), "Origin: null"),
    "foreign page that hides": request(document(), "Sec-Fetch-Site: cross-site", JSON),
    "own form": request(document(), "Origin: http://gateway", f"Content-Type: {FORM}"),
    "a browser's form": request(document(), "Sec-Fetch-Mode: cors", f"Content-Type: {FORM}"),
    "a browser's text": request(document(), "Sec-Fetch-Dest: empty", "Content-Type: text/plain"),
    "json length": request(document(), "Inference-Header-Content-Length: 100000"),
    "json length no number": request(document(), "Inference-Header-Content-Length: x"),
    "bad timeout": request(document(), "X-Request-Timeout-Seconds: -1"),
    "bad priority": request(document(parameters={"priority": 10})),
    "bad coding": request(document(), "Content-Encoding: br"),
    "too large": request(b" " * (MAX_BODY_BYTES + 1)),
    "length too long": request(b"", length="9" * 30),
    "two lengths": request(document(), "Content-Length: 5"),
    "get": request(b"", method="GET"),
    "put": request(document(), method="PUT"),
    "other path": request(document(), path="/v2/models/double/inferior"),
    "long path": request(document(), path=f"/v2/models/{'a' * 40_000}/infer"),
    "long head": request(document(), f"X-Long: {'a' * HEAD_BYTES_MAX}"),
    "connect": request(b"", path="/v2/models/double/infer", method="CONNECT"),
    "mlflow no json": request(b"{", JSON, path=SCORING),
    "mlflow wrong shape": request(b'{"inputs":[[1,2]]}', JSON, path=SCORING),
    "mlflow content type": request(SCORED, "Content-Type: text/plain", path=SCORING),
    "mlflow unknown model": request(SCORED, JSON, path="/v2/models/nothing/invocations"),
    "mlflow foreign page": request(SCORED, "Origin: https://evil.example", JSON, path=SCORING),
    "mlflow bad timeout": request(SCORED, "X-Request-Timeout-Seconds: -1", JSON, path=SCORING),
    "mlflow infer's body": request(document(), JSON, path=SCORING),
    "no http": b"hello there HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", [*VALID, *INVALID])
def test_the_same_bytes_get_the_same_answer(ways: tuple[Way, Way], name: str) -> None:
    sent = (VALID | INVALID)[name]
    short, ordinary = (way.send(sent) for way in ways)
    assert comparable(short) == comparable(ordinary)
    assert _answers(short)
    assert (" 200 " in _answers(short)[0][0]) == (name in VALID)


def test_a_name_is_looked_at_in_each_request_of_a_connection(ways: tuple[Way, Way]) -> None:
    plain = request(document())
    sent = [plain, plain, INVALID["other name"], GOOD, INVALID["other name"], VALID["by address"]]
    for way in ways:
        with socket.create_connection(("127.0.0.1", way.port), timeout=10) as connection:
            statuses = []
            for each in sent:
                connection.sendall(each)
                statuses.append(_answers(_read_until_quiet(connection, (each,)))[0][0][9:12])
        assert statuses == ["200", "200", "421", "200", "421", "200"]


def test_what_was_to_be_the_body_of_an_upgrade_is_no_request(ways: tuple[Way, Way]) -> None:
    inner = request(b"", "Connection: close", method="GET", path="/v2")
    sent = request(inner, "Connection: Upgrade", "Upgrade: h2c")
    at = len(sent) - len(inner)
    for way in ways:
        (answer,) = _answers(
            way.send(sent[:at], sent[at:], VALID["connection close"], pause_s=0.05)
        )[:1]
        assert answer[0] == "HTTP/1.1 400 Bad Request"
        assert b"expected JSON" in answer[2]


def test_the_short_way_is_taken(ways: tuple[Way, Way]) -> None:
    short, ordinary = ways
    before = short.service.submitted
    sent = (GOOD, BINARY, VALID["mlflow"], VALID["mlflow csv"])
    for each in sent:
        short.send(each)
    assert short.service.submitted == before + len(sent)
    for each in sent:
        ordinary.send(each)
    assert ordinary.service.submitted == 0


@pytest.mark.parametrize(
    "sent",
    [GOOD, BINARY, INVALID["wrong shape"], VALID["mlflow"]],
    ids=["j", "b", "bad", "mlflow"],
)
def test_split_at_every_byte(ways: tuple[Way, Way], sent: bytes) -> None:
    whole = comparable(ways[1].send(sent))
    with socket.create_connection(("127.0.0.1", ways[0].port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in range(1, len(sent)):  # all on one connection, which is kept
            connection.sendall(sent[:cut])
            time.sleep(0.0005)
            connection.sendall(sent[cut:])
            assert comparable(_read_until_quiet(connection, (sent,))) == whole


def test_byte_by_byte(ways: tuple[Way, Way]) -> None:
    pieces = [GOOD[at : at + 1] for at in range(len(GOOD))]
    short, ordinary = (way.send(*pieces, pause_s=0.0005) for way in ways)
    assert comparable(short) == comparable(ordinary)


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.sampled_from([*(VALID.keys() - {"connection close", "http 1.0", "http 1.0 kept"})])
        | st.sampled_from(["wrong shape", "unknown model", "content type", "get", "a string"]),
        min_size=2,
        max_size=6,
    ),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_pipelined_requests(ways: tuple[Way, Way], names: list[str], cuts: list[float]) -> None:
    sent = b"".join((VALID | INVALID)[name] for name in names)
    places = [0, *sorted(int(cut * len(sent)) for cut in cuts), len(sent)]
    pieces = [sent[a:b] for a, b in pairwise(places) if a < b]
    short, ordinary = (way.send(*pieces, pause_s=0.001) for way in ways)
    assert comparable(short) == comparable(ordinary)
    assert len(comparable(short)) == len(names)


def test_pipelined_behind_one_that_ends_the_connection(ways: tuple[Way, Way]) -> None:
    sent = GOOD + VALID["connection close"] + GOOD
    short, ordinary = (way.send(sent) for way in ways)
    assert comparable(short) == comparable(ordinary)
    assert len(comparable(short)) == 2


def test_failures_of_the_service(ways: tuple[Way, Way]) -> None:
    for code in ErrorCode:
        for way in ways:
            way.service.failure = PenstockError(code, f"it is {code}")
        short, ordinary = (way.send(GOOD) for way in ways)
        assert comparable(short) == comparable(ordinary)
    for way in ways:
        way.service.failure = RuntimeError("a bug")
    short, ordinary = (way.send(GOOD) for way in ways)
    assert comparable(short) == comparable(ordinary)
    assert b"a bug" not in short


def test_a_body_that_trickles_in_is_given_up(ways: tuple[Way, Way]) -> None:
    short, ordinary = (way.send(GOOD[:-1]) for way in ways)
    assert comparable(short) == comparable(ordinary)
    assert comparable(short)[0][0] == "HTTP/1.1 408 Request Timeout"


@pytest.mark.parametrize("after", [1.0, 0.5], ids=["while it runs", "within its body"])
def test_a_client_that_leaves(ways: tuple[Way, Way], after: float) -> None:
    for way in ways:
        way.service.hang = True
        with socket.create_connection(("127.0.0.1", way.port)) as connection:
            connection.sendall(GOOD[: int(len(GOOD) * after)])
            if after == 1.0:
                assert way.service.started.wait(5)
        if after == 1.0:
            assert way.service.cancelled.wait(5)
        way.service.hang = False
        assert comparable(way.send(GOOD))[0][0] == "HTTP/1.1 200 OK"


def test_both_count_the_same() -> None:
    counted = []
    for direct in (True, False):
        registry = CollectorRegistry()
        app = app_of(FakeInference(), SETTINGS, registry)
        with serving(app, direct=direct) as port:
            way = Way(FakeInference(), registry, port)
            for sent in (VALID | INVALID).values():
                way.send(sent)
            counted.append(way.counted())
    assert counted[0] == counted[1]
    assert len(counted[0]) > 5

"""Bytes of requests and answers."""

from __future__ import annotations

import pytest

from load_tests.generator.http_wire import MalformedError, ResponseReader, request_bytes
from load_tests.server import HttpRequest

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Name: a value\r\n\r\nhello"


def test_a_request_is_whole() -> None:
    request = HttpRequest("/v2", b"body", {"content-type": "application/json"})
    head, _, body = request_bytes(request).partition(b"\r\n\r\n")
    assert body == b"body"
    assert head.split(b"\r\n") == [
        *(b"POST /v2 HTTP/1.1", b"host: 127.0.0.1"),
        *(b"content-type: application/json", b"content-length: 4"),
    ]


@pytest.mark.parametrize("size", range(1, len(ANSWER) + 1))
def test_an_answer_may_come_in_pieces(size: int) -> None:
    reader = ResponseReader()
    pieces = [ANSWER[i : i + size] for i in range(0, len(ANSWER), size)]
    for _ in range(2):  # the next one on the same connection too
        *before, last = [reader.feed(piece) for piece in pieces]
        assert not any(before)
        assert last is not None
        assert (last.status, last.body) == (200, b"hello")
        assert last.headers() == {"content-length": "5", "x-name": "a value"}
        assert not last.closes


def test_a_body_may_be_empty_and_a_connection_may_end() -> None:
    text = b"HTTP/1.1 503 Busy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    response = ResponseReader().feed(text)
    assert response is not None
    assert (response.status, response.body, response.closes) == (503, b"", True)


@pytest.mark.parametrize(
    "text",
    [
        *(ANSWER + b"!", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"?\r\n\r\n"),
        *(b"HTTP/1.1 abc\r\ncontent-length: 0\r\n\r\n", b"x" * 100_000),
    ],
)
def test_what_cannot_be_read_is_an_error(text: bytes) -> None:
    with pytest.raises(MalformedError):
        ResponseReader().feed(text)

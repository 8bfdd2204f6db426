"""HTTP/1.1, as cheap as a load generator needs it: bytes made before, answers by length; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from load_tests.server import HttpRequest

HEAD_BYTES_MAX = 64 * 1024
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class MalformedError(Exception):
    """An answer that this reader cannot read."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer.

    Attributes:
        head: status line and headers, as they came.
    """

    status: int
    head: bytes
    body: bytes

    @property
    def closes(self) -> bool:
        """Whether it is the last one on its connection."""
        return _CLOSE.search(self.head) is not None

    def headers(self) -> dict[str, str]:
        """With names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}


def request_bytes(request: HttpRequest, host: str = "127.0.0.1") -> bytes:
    """A request as it is sent."""
    headers = {"host": host, **request.headers, "content-length": str(len(request.body))}
    lines = [
        f"POST {request.path} HTTP/1.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode("latin-1") + _END + request.body


class ResponseReader:
    """Finds answers in what one connection brings; there is one request at a time on it."""

    def __init__(self) -> None:
        self._buffer = b""
        self._head_ends = -1
        self._ends = -1

    def feed(self, data: bytes) -> Response | None:
        """Take what came; the answer, once it is complete.

        Raises:
            MalformedError: if it has no length, or more comes than was asked for.
        """
        self._buffer = self._buffer + data if self._buffer else data
        if self._ends < 0 and not self._read_head():
            return None
        if len(self._buffer) < self._ends:
            return None
        if len(self._buffer) > self._ends:
            raise MalformedError("an answer that nobody asked for")
        head = self._buffer[: self._head_ends]
        response = Response(int(head[9:12]), head, self._buffer[self._head_ends + len(_END) :])
        self._buffer, self._head_ends, self._ends = b"", -1, -1
        return response

    def _read_head(self) -> bool:
        self._head_ends = self._buffer.find(_END)
        if self._head_ends < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise MalformedError("a head without an end")
            return False
        length = _LENGTH.search(self._buffer, 0, self._head_ends)
        if (
            length is None
            or not self._buffer.startswith(b"HTTP/1.")
            or not self._buffer[9:12].isdigit()
        ):
            raise MalformedError(f"no answer with a length: {self._buffer[:200]!r}")
        self._ends = self._head_ends + len(_END) + int(length.group(1))
        return True

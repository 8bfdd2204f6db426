"""Heads of inference requests (request line and headers), and what was found out about them.

Theory: a client that keeps a connection sends the same head again and again, and what a head means
depends on its bytes alone. So a head that a parser found to be one for the short way (see
`penstock.gateway.http.server.direct`) is remembered by its bytes, together with what it says;
when a request comes whole, and begins with such bytes where a request must begin, nothing is left
for the parser to do. Heads that name one request alone (an id, a trace) are not remembered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from penstock.gateway.http.bodies.element_bounds import LARGE_BYTES
from penstock.shared.wire.records import record

HEADS_MAX = 1024
"""Heads remembered: the same client sends several, as their Content-Length differs."""

HEAD_BYTES_MAX = 2048
"""Longest head remembered, so that all of them take two megabytes at most."""

TARGETS_MAX = 4096
"""URLs remembered, good and bad: clients send the same few again and again."""

LENGTH_DIGITS_MAX = 18

END = b"\r\n\r\n"
END_BYTES = len(END)

_START = b"POST /v2/models/"

_CALL = re.compile(rb"/v2/models/([^/?%#]+)(?:/versions/([^/?%#]+))?/(infer|invocations)")

_ORDINARY = frozenset({b"content-encoding", b"expect", b"prefer", b"transfer-encoding", b"upgrade"})
"""Headers that take some more doing than there is on the short way."""

_OF_ONE_REQUEST = frozenset({b"x-request-id", b"traceparent", b"tracestate"})


@record
class Head:
    """What a head says.

    Attributes:
        path: of the URL.
        model, version: what is to be called; version None: the traffic policy's choice.
        headers: names in lower case.
        scoring: whether it is worded as for MLflow's scoring server.
        length: of the body, in bytes.
    """

    path: str
    model: str
    version: str | None
    scoring: bool
    headers: Mapping[bytes, bytes]
    length: int


def head_of(url: bytes, headers: list[tuple[bytes, bytes]], max_body_bytes: int) -> Head | None:
    """The head of a POST; None if it is not one for the short way.

    Args:
        url: as in the request line.
        headers: names in lower case, in order.
    """
    target = _target_of(url) if len(url) <= HEAD_BYTES_MAX else None
    if target is None:
        return None
    by_name = dict(headers)
    length = by_name.get(b"content-length", b"")
    if (
        len(by_name) != len(headers)
        or not _ORDINARY.isdisjoint(by_name)
        or not length.isdigit()
        or len(length) > LENGTH_DIGITS_MAX
        or int(length) > max_body_bytes
        or (int(length) > LARGE_BYTES and not _is_mostly_binary(by_name))
    ):
        return None
    return Head(url.decode("ascii"), *target, by_name, int(length))


def _is_mostly_binary(headers: dict[bytes, bytes]) -> bool:
    """Whether a large body has little JSON in it: more of that is read beside the loop."""
    length = headers.get(b"inference-header-content-length", b"")
    return length.isdigit() and len(length) <= LENGTH_DIGITS_MAX and int(length) <= LARGE_BYTES


@lru_cache(TARGETS_MAX)
def _target_of(url: bytes) -> tuple[str, str | None, bool] | None:
    """The model and version that a URL calls, and in which words; None if it is any other URL."""
    match = _CALL.fullmatch(url)
    if match is None or not url.isascii():
        return None
    model, version, words = match.groups()
    pin = None if version is None else version.decode("ascii")
    return model.decode("ascii"), pin, words == b"invocations"


class KnownHeads:
    """Heads by their bytes."""

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def __len__(self) -> int:
        return len(self._heads)

    def match(self, data: bytes) -> tuple[Head, int] | None:
        """The known head of a request that comes whole in `data`, and where its body begins."""
        end = data.find(END) + END_BYTES
        head = self._heads.get(data[:end])
        if head is None or len(data) - end != head.length:
            return None
        return head, end

    def learn(self, data: bytes, head: Head, body: bytes) -> None:
        """A parser found a request with this head and body in `data`.

        It is remembered if it was whole, and nothing else was in `data`.
        """
        end = data.find(END) + END_BYTES
        if (
            end > HEAD_BYTES_MAX
            or not data.startswith(_START)
            or not _OF_ONE_REQUEST.isdisjoint(head.headers)
            or len(body) != head.length
            or data[end:] != body
        ):
            return
        if len(self._heads) >= HEADS_MAX:
            del self._heads[next(iter(self._heads))]
        self._heads[data[:end]] = head

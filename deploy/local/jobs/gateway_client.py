"""A gateway over HTTP, for commands: one connection a request, the standard library's client.

A gateway that cannot be reached, or says 503, may be there again in a moment: that is a
`GatewayAwayError`, and `patiently` tries again. What it refuses for good is a `RefusedError`.
"""

from __future__ import annotations

import http.client
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlencode, urlsplit

import orjson

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.jobs.server_events import ServerEvent, read_events

TIMEOUT_S = 60.0
"""Longest silence; a stream of events says something much more often."""

PATIENCE_S = 60.0
"""For how long a gateway that is away is tried again: it may be restarted, or its store may be."""

PAUSE_S = (0.1, 2.0)
"""Between the first two tries, and the longest."""

TELLING_PAUSE_S = 1.0
"""A pause as long as this is told of: it comes after a second and a half."""

AWAY = frozenset({429, 502, 503, 504})
"""Not now; 502 and 504 are those of a proxy before it."""

Answer = TypeVar("Answer")


class GatewayAwayError(CommandError):
    """No answer, or one such as 503: the same request may succeed a little later."""


class RefusedError(CommandError):
    """A status that is no success.

    Attributes:
        status: of HTTP.
        body: of the answer.
    """

    def __init__(self, status: int, message: str, body: bytes = b"") -> None:
        super().__init__(message, exit_code=2 if status in (400, 422) else 1)
        self.status = status
        self.body = body


class GatewayClient:
    """Talks to the gateway at a URL.

    Raises:
        CommandError: if that is no http or https URL.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise CommandError(f"--url {url}: {error}", exit_code=2) from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(f"--url {url}: expected http://HOST[:PORT]", exit_code=2)
        self.url = url
        self._secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The body of the answer.

        Raises:
            GatewayAwayError: if the gateway does not answer, or not now.
            RefusedError: if its answer is no success.
        """
        with self._answer(method, path, query or {}, body, headers or {}) as response:
            return response.read()

    def follow(self, path: str, last_event_id: str = "") -> Iterator[ServerEvent]:
        """Events of a stream, from the one after `last_event_id` on, until it ends.

        Raises:
            GatewayAwayError: also if the connection is lost.
            RefusedError: if the answer is no success.
        """
        headers = {"accept": "text/event-stream"}
        if last_event_id:
            headers["last-event-id"] = last_event_id
        with self._answer("GET", path, {}, None, headers) as response:
            yield from read_events(response)

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        target = f"{self._prefix}{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, body, dict(headers))
            response = connection.getresponse()
            if response.status >= http.HTTPStatus.MULTIPLE_CHOICES:
                raise _refusal(response.status, response.read())
            yield response
        except (OSError, http.client.HTTPException) as error:
            told = str(error) or type(error).__name__
            raise GatewayAwayError(f"the gateway at {self.url} does not answer: {told}") from error
        finally:
            connection.close()


def patiently(attempt: Callable[[], Answer], patience_s: float = PATIENCE_S) -> Answer:
    """What `attempt` returns; it is made again while the gateway is away.

    Who waits for a while is told why, once, on standard error.

    Raises:
        GatewayAwayError: if that lasts for longer than `patience_s` from the first failure on.
    """
    pause_s, longest_s = PAUSE_S
    give_up = 0.0
    told = False
    while True:
        try:
            return attempt()
        except GatewayAwayError as error:
            now = time.monotonic()
            give_up = give_up or now + patience_s
            if now + pause_s > give_up:
                raise
            if not told and pause_s >= TELLING_PAUSE_S:
                told = True
                print(f"penstock: {error.message}; trying again", file=sys.stderr)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, longest_s)


def _refusal(status: int, body: bytes) -> CommandError:
    message = f"the gateway says {status}: {_told(body)}"
    return GatewayAwayError(message) if status in AWAY else RefusedError(status, message, body)


def _told(body: bytes) -> str:
    """The message of an error's body; its beginning, if it is none of ours."""
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip() or "no more"

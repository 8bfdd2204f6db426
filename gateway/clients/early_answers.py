"""Answers that go out before all of a request has come, and the end of the connection after them.

Used by `penstock.gateway.http.server.connection`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from penstock.gateway.memory.held_bytes import SMALL_BYTES_MAX

LENGTH_DIGITS_MAX = 9
"""More digits than any small length has."""


class Lingering:
    """The end of a connection whose client may still be sending.

    To close a connection with unread data resets it, and the client may lose the answer. So our
    side ends first, once the answer is out, and what comes is thrown away until the client ends its
    own side, or `linger_s` is over.
    """

    def __init__(self, transport: asyncio.Transport, linger_s: float) -> None:
        self._transport = transport
        if transport.can_write_eof():
            transport.write_eof()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(linger_s, transport.abort)
        transport.resume_reading()

    def end(self) -> None:
        """The connection is gone."""
        self._timer.cancel()


class AnsweringTransport:
    """A transport as uvicorn's cycle of a request sees it: its end is the connection's affair."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end


def _is_small(scope: Scope) -> bool:
    """Whether a request says that its body is small."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            digits = value.rstrip(b" \t")
            if not digits.isdigit() or len(digits) > LENGTH_DIGITS_MAX:
                return False
            return int(digits) <= SMALL_BYTES_MAX
    return False


class EarlyAnswers:
    """An application whose answers say that they are the last ones if a body is still to come.

    The rest of a large one would have to be read before anything else can be. That of a small one
    is, and thrown away.
    """

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        cycle = self._cycle

        async def ending(message: Message) -> None:
            if cycle.more_body and not cycle.response_started and not _is_small(scope):
                cycle.keep_alive = False
            await send(message)

        await self._app(scope, receive, ending)

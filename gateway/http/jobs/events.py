"""A job's events as a response that lasts: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Response
from starlette.types import Receive, Scope, Send

from penstock.gateway.http.server.body import unless_client_goes
from penstock.shared.contracts.errors import ErrorCode, PenstockError

MEDIA_TYPE = "text/event-stream"

HEADERS = {"content-type": MEDIA_TYPE, "cache-control": "no-store", "x-accel-buffering": "no"}
"""Nobody on the way is to keep events, or to gather them."""


class EventStream(Response):
    """Sends events as they come, until they end or the client leaves.

    Args:
        events: each as it is sent; closed in any case.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers, then events."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            await unless_client_goes(self._send_all(send), receive)
        except PenstockError as error:
            if error.code is not ErrorCode.CANCELLED:
                raise

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

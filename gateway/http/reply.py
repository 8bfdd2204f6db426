"""The answer to a request whose call was answered, and how ASGI sends it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Response
from starlette.types import Receive, Scope, Send

from penstock.gateway.memory.held_bytes import SMALL_BYTES_MAX, HeldShare
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer, nbytes_of


@record
class Reply:
    """The answer to a request whose call was answered.

    Attributes:
        head: its headers as they are sent, each with the end of its line.
        parts: of its body; large tensors are not joined.
    """

    head: bytes
    parts: tuple[Buffer, ...]


class ReplyResponse(Response):
    """A reply for ASGI.

    Args:
        unread: of the bytes of answers; shrinks as they are handed to the connection, which counts
            what the client does not read, and is released when all were, however that went.
    """

    def __init__(self, reply: Reply, unread: HeldShare | None = None) -> None:
        self._unread = unread
        lines = [line.partition(b": ") for line in reply.head.splitlines()]
        self.status_code = HTTPStatus.OK.value
        self.raw_headers = [(name, value) for name, _, value in lines]
        self.background = None
        self._parts = reply.parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and parts."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        left_bytes = sum([nbytes_of(part) for part in self._parts])
        try:
            await send(start)
            for part in self._parts[:-1]:
                left_bytes = await self._send_part(part, left_bytes, send)
            await self._send_part(self._parts[-1], left_bytes, send, last=True)
        finally:
            if self._unread is not None:
                self._unread.release()

    async def _send_part(
        self, part: Buffer, left_bytes: int, send: Send, *, last: bool = False
    ) -> int:
        """Bytes that are left then.

        The empty piece in front waits until the connection takes more, so that the part is not
        counted twice, and never not at all.
        """
        if nbytes_of(part) > SMALL_BYTES_MAX:
            await send({"type": "http.response.body", "body": b"", "more_body": True})
        left_bytes -= nbytes_of(part)
        if self._unread is not None:
            self._unread.shrink(left_bytes)
        await send({"type": "http.response.body", "body": part, "more_body": not last})
        return left_bytes


def json_response(value: Any) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(value), media_type="application/json")

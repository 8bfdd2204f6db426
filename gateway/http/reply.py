"""The answer to a request whose call was answered, and how ASGI sends it."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Response
from starlette.types import Receive, Scope, Send

from shared.records import record
from shared.tensors import Buffer


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
    """A reply for ASGI."""

    def __init__(self, reply: Reply) -> None:
        lines = [line.partition(b": ") for line in reply.head.splitlines()]
        self.status_code = HTTPStatus.OK.value
        self.raw_headers = [(name, value) for name, _, value in lines]
        self.background = None
        self._parts = reply.parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and parts."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for part in self._parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": self._parts[-1], "more_body": False})

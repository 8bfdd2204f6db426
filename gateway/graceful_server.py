"""uvicorn that leaves without cutting a client off.

uvicorn closes idle keep-alive connections the moment it is told to leave, and a client that sends
a request at that moment gets a reset instead of an answer. So here a connection ends in one of two
ways, each of which the client can see coming:

- its next answer says `Connection: close`, and is the last one on it;
- it brought no request for `quiet_s`, and is closed as any idle connection would be.

New connections are not accepted meanwhile; where gateways share a listening socket, another takes
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


@dataclass
class Drain:
    """Whether a server leaves, and how; shared by all of its connections.

    Attributes:
        quiet_s: how long a connection without a request is kept.
        grace_s: longest wait for the answers that are owed.
    """

    quiet_s: float
    grace_s: float
    begun: bool = False


class GracefulConnection(HttpToolsProtocol):
    """A connection that ends as the module's docstring says."""

    def __init__(self, *arguments: Any, drain: Drain, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._drain = drain

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected; if it was accepted in the last moment, it is served all the same."""
        super().connection_made(transport)
        if self._drain.begun:
            self.shutdown()

    def on_headers_complete(self) -> None:
        """A request begins; while we drain, its answer is the last one on this connection."""
        before = self.cycle
        super().on_headers_complete()
        if not self._drain.begun or self.cycle is before:
            return
        if before is not None and not before.response_started:
            before.keep_alive = True  # requests were pipelined, and this one comes after it
        self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server leaves: announce the end with an answer, or close when all is quiet."""
        self.timeout_keep_alive = self._drain.quiet_s  # type: ignore[assignment]
        if self.cycle is None or self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self._drain.quiet_s, self.timeout_keep_alive_handler
            )
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False


class GracefulServer(uvicorn.Server):
    """uvicorn without its signal handlers (ours say not-ready first) and without its abrupt end."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                http=cast(type[asyncio.Protocol], partial(GracefulConnection, drain=drain)),
                lifespan="off",
                timeout_graceful_shutdown=max(int(drain.grace_s), 1),
            )
        )
        self._drain = drain

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the gateway."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing new, and wait for all connections to end."""
        self._drain.begun = True
        await super().shutdown(sockets)

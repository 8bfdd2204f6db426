"""uvicorn that leaves without cutting a client off.

Its connections end one by one, as `penstock.gateway.http.server.connection` says. New connections
are not accepted meanwhile; where gateways share a listening socket, another takes them. Who is
still owed an answer when the grace is over, or when the server is told to hurry, is told so by a
503, and can ask another gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import uvicorn
from starlette.types import ASGIApp

from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.http.server.connection import DrainState, GracefulConnection

ACCEPTED_S = 0.1
"""A connection that was accepted in the last moment shows itself within this time."""

FAREWELL_S = 1.0
"""Of the grace, what is kept for the goodbyes after the last connection: to replicas and store."""


class GracefulServer(uvicorn.Server):
    """uvicorn without its signal handlers (ours say not-ready first) and without its abrupt end.

    Args:
        connection: makes connections; called with the arguments of `GracefulConnection`.
        bounds: of what its clients may make it hold.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain: DrainState,
        connection: Callable[..., GracefulConnection] = GracefulConnection,
        bounds: ClientBounds | None = None,
    ) -> None:
        bounds = bounds or ClientBounds()
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=cast(type[asyncio.Protocol], partial(connection, drain=drain, bounds=bounds)),
                lifespan="off",
                # Said to be an integer, it is only ever handed to a timer.
                timeout_keep_alive=cast(int, bounds.keep_alive_s),
            )
        )
        self._drain = drain
        self._grace_ends_s: float | None = None

    @property
    def leaving(self) -> bool:
        """Whether it was told to leave."""
        return self._grace_ends_s is not None

    def leave(self, wait_s: float) -> None:
        """Accept connections for `wait_s` more, then drain; the grace begins now."""
        loop = asyncio.get_running_loop()
        self._grace_ends_s = loop.time() + self._drain.grace_s
        loop.call_later(wait_s, setattr, self, "should_exit", True)

    def hurry(self) -> None:
        """Leave now, whatever is owed."""
        self.should_exit = self.force_exit = True
        self._drain.changed.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the gateway."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing new, and wait for all connections to end, as long as the grace is."""
        self._drain.begun = True
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in self._connections():
            connection.shutdown()
        await asyncio.sleep(ACCEPTED_S)
        loop = asyncio.get_running_loop()
        if self._grace_ends_s is None:
            self._grace_ends_s = loop.time() + self._drain.grace_s
        farewell_s = min(FAREWELL_S, self._drain.grace_s / 2)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._grace_ends_s - farewell_s):
                while self.server_state.connections and not self.force_exit:
                    self._drain.changed.clear()
                    await self._drain.changed.wait()
        for connection in self._connections():
            connection.give_up()
        if self.server_state.tasks:  # so that what was given up is counted, and cancelled
            await asyncio.wait(self.server_state.tasks, timeout=ACCEPTED_S)

    def _connections(self) -> list[GracefulConnection]:
        return cast(list[GracefulConnection], list(self.server_state.connections))

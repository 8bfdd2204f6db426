"""uvicorn that leaves without cutting a client off.

uvicorn closes idle keep-alive connections the moment it is told to leave, and a client that sends
a request at that moment gets a reset instead of an answer. So here a connection ends in one of two
ways, each of which the client can see coming:

- its next answer says `Connection: close`, and is the last one on it;
- it brought no request for `quiet_s`, and is closed as any idle connection would be.

New connections are not accepted meanwhile; where gateways share a listening socket, another takes
them. Who is still owed an answer when the grace is over, or when the server is told to hurry, is
told so by a 503, and can ask another gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

GIVEN_UP = "the gateway is shutting down"

_GIVEN_UP_STATE = "penstock.given_up"
"""In a request's ASGI state, which copies of its scope share."""

_GIVEN_UP_BODY = b'{"error":"%b"}' % GIVEN_UP.encode()
_GIVEN_UP_ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_GIVEN_UP_BODY), _GIVEN_UP_BODY)
)


ACCEPTED_S = 0.1
"""A connection that was accepted in the last moment shows itself within this time."""

FAREWELL_S = 1.0
"""Of the grace, what is kept for the goodbyes after the last connection: to replicas and store."""


def was_given_up(scope: Scope) -> bool:
    """Whether a request whose client seems to have left was really cut off by us."""
    return _GIVEN_UP_STATE in scope.get("state", {})


@dataclass
class Drain:
    """Whether a server leaves, and how; shared by all of its connections.

    Attributes:
        quiet_s: how long a connection without a request is kept.
        grace_s: longest time from being told to leave to the end of the process.
        changed: set when a connection ended, or when it became urgent.
    """

    quiet_s: float
    grace_s: float
    begun: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class GracefulConnection(HttpToolsProtocol):
    """A connection that ends as the module's docstring says.

    uvicorn sets a timer after each answer and cancels it at the next request. Here there is one
    timer per connection, which looks when it rings at how long nothing has come: timers are a
    tenth of what a small request costs.
    """

    def __init__(self, *arguments: Any, drain: Drain, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._drain = drain
        self._idle_since_s: float | None = None

    @property
    def draining(self) -> bool:
        """Whether the server leaves."""
        return self._drain.begun

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected; if it was accepted in the last moment, it is served all the same."""
        super().connection_made(transport)
        if self._drain.begun:
            self.shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended."""
        super().connection_lost(exc)
        self._stop_timer()
        self._drain.changed.set()

    def on_headers_complete(self) -> None:
        """A request begins; while we drain, its answer is the last one on this connection."""
        before = self.cycle
        super().on_headers_complete()
        if not self._drain.begun or self.cycle is before:
            return
        if before is not None and not before.response_started:
            before.keep_alive = True  # requests were pipelined, and this one comes after it
        self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """An answer has been sent: go on with a request that waits, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since_s = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._start_timer(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """The timer rang: close the connection if it has been idle for as long as it may."""
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None or self.transport.is_closing():
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._start_timer(left_s)

    def shutdown(self) -> None:
        """The server leaves: announce the end with an answer, or close when all is quiet."""
        self.timeout_keep_alive = self._drain.quiet_s  # type: ignore[assignment]
        self._stop_timer()
        if self.cycle is None or self.cycle.response_complete:
            self._idle_since_s = self.loop.time()
            self._start_timer(self._drain.quiet_s)
        elif not self.cycle.response_started:
            self.cycle.keep_alive = False

    def give_up(self) -> None:
        """There is no time left: say so to who is owed an answer, and end the connection."""
        if self.flow.write_paused:
            self.transport.abort()  # it does not even read the answers before
            return
        cycle = self.cycle
        owed = cycle is not None and not (cycle.response_started or cycle.disconnected)
        if owed and not self.pipeline:
            cycle.disconnected = True  # to the application, as if the client had left
            cycle.scope["state"][_GIVEN_UP_STATE] = True
            self.transport.write(_GIVEN_UP_ANSWER)
        self.transport.close()

    def begin_to_receive(self) -> None:
        """The client sent something."""
        self._idle_since_s = None

    def _unset_keepalive_if_required(self) -> None:
        """What uvicorn calls when the client sent something."""
        self._idle_since_s = None

    def _start_timer(self, delay_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            delay_s, self.timeout_keep_alive_handler
        )

    def _stop_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None


class GracefulServer(uvicorn.Server):
    """uvicorn without its signal handlers (ours say not-ready first) and without its abrupt end.

    Args:
        connection: makes connections; called with the arguments of `GracefulConnection`.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        connection: Callable[..., GracefulConnection] = GracefulConnection,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                http=cast(type[asyncio.Protocol], partial(connection, drain=drain)),
                lifespan="off",
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

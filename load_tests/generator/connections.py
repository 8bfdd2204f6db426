"""A generator's keep-alive connections: opened when needed up to a bound, used again, newest first.

A request that finds none free waits in line; its latency runs from its intended time all the same.
The shell around `tally`, which keeps what becomes of the requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from load_tests.generator.http_wire import MalformedError, Response, ResponseReader
from load_tests.generator.load_plan import OK
from load_tests.generator.tally import Tally

IDLE_MAX_S = 3.0
"""Servers close connections that were idle for some seconds (uvicorn: 5). A request that crosses
with that is lost through nobody's fault, so those that may be about to be closed are not used."""

CONNECT = "connect"
RESET = "connection lost"
MALFORMED = "malformed answer"

NO_TICKET = -1


class Connections:
    """All connections of one load.

    Args:
        limit: most that are open at a time.
        on_end: called after a request's fate is known.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[bytes],
        tally: Tally,
        limit: int,
        *,
        keep_answers: bool,
        on_end: Callable[[], None],
    ) -> None:
        self._port = port
        self._requests = requests
        self._tally = tally
        self._limit = limit
        self._keep = keep_answers
        self._on_end = on_end
        self._free: deque[_Connection] = deque()
        self._waiting: deque[int] = deque()
        self._dials: set[asyncio.Task[None]] = set()
        self._open: set[_Connection] = set()
        self._closed = False

    async def open_some(self, count: int) -> None:
        """Open connections beforehand, as clients that were there already have.

        Raises:
            OSError: if the server does not take them.
        """
        await asyncio.gather(*(self._connect() for _ in range(min(count, self._limit))))

    def send(self, ticket: int) -> None:
        """Send a request as soon as there is a connection for it."""
        connection = self._take()
        if connection is not None:
            connection.send(ticket, self._requests[self._tally.request_of(ticket)])
            return
        self._waiting.append(ticket)
        self._dial_if_needed()

    def close(self) -> None:
        """Close all; what is still open stays unanswered."""
        self._closed = True
        for dial in self._dials:
            dial.cancel()
        for connection in list(self._open):
            connection.abort()

    # Connections report here

    def made(self, connection: _Connection) -> None:
        """A connection is there."""
        self._open.add(connection)
        self._release(connection)

    def answered(self, connection: _Connection, ticket: int, response: Response) -> None:
        """A request got its answer."""
        now = time.monotonic()
        if response.status == 200:
            self._tally.end(ticket, OK, now)
            if self._keep:
                self._tally.keep(ticket, response.headers(), response.body)
        else:
            self._tally.end(ticket, f"status {response.status}", now)
        if response.closes:
            connection.abort()
            self._open.discard(connection)
        else:
            self._release(connection)
        self._on_end()

    def lost(self, connection: _Connection, ticket: int, kind: str) -> None:
        """A connection ended, maybe under a request."""
        self._open.discard(connection)
        if self._closed:
            return  # the load is over, and its requests are accounted for
        if ticket != NO_TICKET:
            self._tally.end(ticket, kind, time.monotonic())
            self._on_end()
        self._dial_if_needed()

    def _dial_if_needed(self) -> None:
        opening = len(self._dials)
        if not self._closed and opening < len(self._waiting) and self._more_allowed(opening):
            dial = asyncio.get_running_loop().create_task(self._dial())
            self._dials.add(dial)
            dial.add_done_callback(self._dials.discard)

    def _more_allowed(self, opening: int) -> bool:
        return len(self._open) + opening < self._limit

    def _release(self, connection: _Connection) -> None:
        if self._waiting:
            ticket = self._waiting.popleft()
            connection.send(ticket, self._requests[self._tally.request_of(ticket)])
        else:
            connection.free_since = time.monotonic()
            self._free.append(connection)

    def _take(self) -> _Connection | None:
        oldest = time.monotonic() - IDLE_MAX_S
        while self._free:
            connection = self._free.pop()
            if connection in self._open and connection.free_since > oldest:
                return connection
            connection.abort()
            self._open.discard(connection)
        return None

    async def _dial(self) -> None:
        try:
            await self._connect()
        except OSError:
            if self._waiting:
                self._tally.end(self._waiting.popleft(), CONNECT, time.monotonic())
                self._on_end()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)


class _Connection(asyncio.Protocol):
    def __init__(self, owner: Connections) -> None:
        self._owner = owner
        self._reader = ResponseReader()
        self._ticket = NO_TICKET
        self._transport: asyncio.Transport | None = None
        self.free_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own are no subclasses
        self._owner.made(self)

    def send(self, ticket: int, data: bytes) -> None:
        assert self._transport is not None, "not connected"
        self._ticket = ticket
        self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            response = self._reader.feed(data)
        except MalformedError:
            self._lose(MALFORMED)
            self.abort()
            return
        if response is not None:
            ticket, self._ticket = self._ticket, NO_TICKET
            if ticket == NO_TICKET:
                self.abort()  # an answer that nobody asked for
                return
            self._owner.answered(self, ticket, response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(RESET)

    def _lose(self, kind: str) -> None:
        ticket, self._ticket = self._ticket, NO_TICKET
        self._owner.lost(self, ticket, kind)

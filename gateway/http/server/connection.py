"""A client's connection that ends so that the client can see it coming.

uvicorn closes idle keep-alive connections the moment it is told to leave, and a client that sends
a request at that moment gets a reset instead of an answer. So here a connection ends in one of two
ways, each of which the client can see coming:

- its next answer says `Connection: close`, and is the last one on it;
- it brought no request for `quiet_s`, and is closed as any idle connection would be.

Who is still owed an answer when there is no time left (`penstock.gateway.http.server.server`) gets
a 503.

What uvicorn leaves open is closed here: heads have a largest size, and a time within which they
must have come; a connection whose requests wait for their turn is not read on; and an upgrade that
is asked for is ignored, as HTTP has it, and not taken for the end of HTTP on the connection. Who is
answered before all of its body came gets no further answer on the connection, which ends as
`penstock.gateway.clients.early_answers` says. While a client does not read its answers, nothing
more is read from it or served to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from penstock.gateway.clients.early_answers import AnsweringTransport, EarlyAnswers, Lingering
from penstock.gateway.clients.unread_answers import (
    BUFFER_BYTES_MAX,
    ClientBounds,
    UnreadAnswers,
)

GIVEN_UP = "the gateway is shutting down"

_GIVEN_UP_STATE = "penstock.given_up"
"""In a request's ASGI state, which copies of its scope share."""

HEAD_BYTES_MAX = 64 * 1024
"""Largest head of a request, give or take what comes at once: uvicorn's own bound for its other
parser. Without one, a head without an end takes memory, and time that grows with its square."""

HEAD_TIMEOUT_S = 60.0
"""Longest time from a connection's beginning to that of its first head, and from there to the end
of a head: for clients that connect beforehand, and none that hold a descriptor for ever."""

LOOK_S = 5.0
"""Longest time between two looks at how long a head has been waited for."""


def _last_answer(status: bytes, message: str) -> bytes:
    """An answer with an error, after which the connection ends."""
    body = b'{"error":"%b"}' % message.encode()
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (status, len(body), body)
    )


MUCH_BYTES = 64 * 1024
"""Read at once, it is probably not all: uvloop's buffer takes 256,000 bytes."""

_GIVEN_UP_ANSWER = _last_answer(b"503 Service Unavailable\r\nretry-after: 1", GIVEN_UP)
_HEAD_TOO_LARGE_ANSWER = _last_answer(
    b"431 Request Header Fields Too Large",
    f"head of the request: expected at most {HEAD_BYTES_MAX} bytes, got more",
)
_INVALID_REQUEST = "Invalid HTTP request received."
_INVALID_ANSWER = _last_answer(b"400 Bad Request", _INVALID_REQUEST)


def was_given_up(scope: Scope) -> bool:
    """Whether a request whose client seems to have left was really cut off by us."""
    return _GIVEN_UP_STATE in scope.get("state", {})


@dataclass
class DrainState:
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


class HeadTooLargeError(Exception):
    """The head of a request is larger than `HEAD_BYTES_MAX`."""


class PatientFlow(FlowControl):
    """Reads on only while no request waits for its turn, and then as others have had theirs.

    uvicorn reads on with each answer and each body that is asked for, and with each read as many
    requests may come as fit into it. The event loop (libuv) reads a socket up to 32 times in a
    turn while it fills its buffer: 8 MB of a large body, which take 10 ms.
    """

    def __init__(
        self, transport: asyncio.Transport, waiting: deque[tuple[RequestResponseCycle, Any]]
    ) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def read_no_more_in_this_turn(self) -> None:
        """Much has come: let other connections have their turn before the rest."""
        if not self.read_paused:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.read_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def resume_reading(self) -> None:
        """Go on, unless what has come is enough for now, or answers are not read."""
        if not self._waiting and not self.write_paused:
            super().resume_reading()


class GracefulConnection(HttpToolsProtocol):
    """A connection that ends as the module's docstring says.

    uvicorn sets a timer after each answer and cancels it at the next request. Here there is one
    timer per connection, which looks when it rings at how long a head has been waited for: timers
    are a tenth of what a small request costs.
    """

    unread: UnreadAnswers
    _answering: AnsweringTransport

    def __init__(
        self, *arguments: Any, drain: DrainState, bounds: ClientBounds, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._drain = drain
        self.bounds = bounds
        self._lingering: Lingering | None = None
        self._next_waits = False  # until the answers before it were read
        self._waits_since_s: float | None = None  # for a head
        self._patience_s = HEAD_TIMEOUT_S
        self._in_turn: RequestResponseCycle | None = None  # while others may be pipelined
        self._in_head = False
        self._head_bytes = 0  # of the head that is being read, but for its first piece
        self._declined = b""  # the head of a request to upgrade, as if it had not asked for that

    @property
    def draining(self) -> bool:
        """Whether the server leaves."""
        return self._drain.begun

    @property
    def lingers(self) -> bool:
        """Whether the last answer is out, and nothing that comes is answered."""
        return self._lingering is not None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected; if it was accepted in the last moment, it is served all the same."""
        super().connection_made(transport)
        self.flow: PatientFlow = PatientFlow(transport, self.pipeline)
        transport.set_write_buffer_limits(BUFFER_BYTES_MAX)
        self.unread = UnreadAnswers(transport, self.bounds)
        self._answering = AnsweringTransport(transport, self._end_in_turn)
        self._wait_for_head(HEAD_TIMEOUT_S)
        if self._drain.begun:
            self.shutdown()

    def data_received(self, data: bytes) -> None:
        """The client sent something."""
        if self._lingering is not None:
            return
        if len(data) >= MUCH_BYTES:
            self.flow.read_no_more_in_this_turn()
        if self._in_head:
            self._head_bytes += len(data)
            if self._drain.begun:
                self._wait_for_head(self._patience_s)
        try:
            self._parse(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                raise HeadTooLargeError
        except HeadTooLargeError:
            self._refuse_head()
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, HeadTooLargeError):
                self._refuse_head()
                return
            if self._lingering is not None:
                return
            self.logger.warning(_INVALID_REQUEST)
            self.transport.write(_INVALID_ANSWER)
            self.linger()

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which stops after a CONNECT, or the head of a request to upgrade."""
        left = memoryview(data)
        while left:
            try:
                self.parser.feed_data(left)
            except httptools.HttpParserUpgrade as stop:
                head, self._declined = self._declined, b""
                if head:
                    self.parser.feed_data(head)
                left = left[stop.args[0] :]
            else:
                return

    def _refuse_head(self) -> None:
        if self._lingering is None:
            self.transport.write(_HEAD_TOO_LARGE_ANSWER)
            self.linger()

    def linger(self) -> None:
        """The last answer is out, and the client may still be sending."""
        if self._lingering is None and not self.transport.is_closing():
            self.pipeline.clear()
            self._lingering = Lingering(self.transport, self.bounds.linger_s)

    def pause_writing(self) -> None:
        """The client does not read its answers: read no more from it, and serve it nothing more."""
        super().pause_writing()
        self.flow.pause_reading()
        self.unread.begin()

    def resume_writing(self) -> None:
        """The client has read its answers."""
        super().resume_writing()
        self.unread.end()
        if self.transport.is_closing() or self._lingering is not None:
            return
        if self._next_waits:
            self._next_waits = False
            self._next_in_turn()
        elif not self.pipeline:
            self.flow.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended: tell the request that is being answered, and forget the others."""
        self.pipeline.clear()
        in_turn = self._in_turn
        if in_turn is not None and not in_turn.response_complete:
            in_turn.disconnected = True
            in_turn.message_event.set()
        super().connection_lost(exc)
        self.unread.end()
        if self._lingering is not None:
            self._lingering.end()
        self._stop_timer()
        self._drain.changed.set()

    def on_message_begin(self) -> None:
        """A request begins."""
        self.head_begins()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head has come; while we drain, its answer is the last one on this connection."""
        if self.lingers:
            return  # it came together with the rest of a refused body
        self.head_has_come()
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._declined = self._head_without_upgrade()
            return
        before = self.cycle
        super().on_headers_complete()
        if not self._drain.begun or self.cycle is before:
            return
        if before is not None and not before.response_started:
            before.keep_alive = True  # requests were pipelined, and this one comes after it
        self.cycle.keep_alive = False

    def head_begins(self) -> None:
        """The parser read the first of a head."""
        self._in_head = True
        self._wait_for_head(HEAD_TIMEOUT_S)

    def head_has_come(self) -> None:
        """The parser read a head to its end.

        Raises:
            HeadTooLargeError
        """
        self._in_head, self._head_bytes = False, 0
        self.wait_no_more()
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers])
        if size > HEAD_BYTES_MAX:
            raise HeadTooLargeError

    def _head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def on_message_complete(self) -> None:
        """A request is all there, unless its head is to be read again."""
        if not self._declined:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been sent: go on with a request that waits, or wait for one."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._lingering is not None:
            return
        flow = self.flow
        if flow.write_paused:
            self._next_waits = True
        elif self.pipeline or flow.read_paused:
            self._next_in_turn()
        elif not self._in_head:  # as nearly always: another call would be most of what it takes
            self._wait_for_head(self.timeout_keep_alive)

    def _next_in_turn(self) -> None:
        """All that had its turn was answered."""
        waiting = self.pipeline.pop() if self.pipeline else None
        if self.flow.read_paused:
            self.flow.resume_reading()
        if waiting is not None:
            self._start_asgi_task(*waiting)
        elif not self._in_head:
            self._wait_for_head(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """The timer rang: close the connection if it has waited for a head long enough."""
        self.timeout_keep_alive_task = None
        if self._waits_since_s is None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_for_head(self._patience_s)  # the client waits, too, and may not be read
            return
        left_s = self._waits_since_s + self._patience_s - self.loop.time()
        if left_s <= 0:
            self.transport.close()
        else:
            self._start_timer(left_s)

    def shutdown(self) -> None:
        """The server leaves: announce the end with an answer, or close when all is quiet."""
        self.timeout_keep_alive = self._drain.quiet_s  # type: ignore[assignment]
        self._stop_timer()
        if self.cycle is None or self.cycle.response_complete:
            self._wait_for_head(self._drain.quiet_s)
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

    def wait_no_more(self) -> None:
        """The head has come that was waited for."""
        self._waits_since_s = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """A request has its turn; if it is answered before all of it came, that is the end."""
        self._in_turn = cycle
        cycle.transport = cast(asyncio.Transport, self._answering)
        super()._start_asgi_task(cycle, cast(Any, EarlyAnswers(app, cycle)))

    def _end_in_turn(self) -> None:
        """The answer to the request that has its turn is the last one."""
        if self._in_turn is not None and self._in_turn.more_body:
            self.linger()
        else:
            self.transport.close()

    def _wait_for_head(self, patience_s: float) -> None:
        self._waits_since_s, self._patience_s = self.loop.time(), patience_s
        if self.timeout_keep_alive_task is None:
            self._start_timer(patience_s)

    def _start_timer(self, left_s: float) -> None:
        """Ring when it may be time; patience may become less meanwhile, to that of idleness."""
        self.timeout_keep_alive_task = self.loop.call_later(
            min(left_s, self.timeout_keep_alive, LOOK_S), self.timeout_keep_alive_handler
        )

    def _stop_timer(self) -> None:
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

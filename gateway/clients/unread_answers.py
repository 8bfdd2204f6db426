"""What a client's connection holds of answers that the client has not read, and for how long.

The transport keeps what the socket does not take. Up to `BUFFER_BYTES_MAX` nobody looks: a
connection costs more than that by itself. Beyond, the bytes count in the gateway's budget, nothing
more is read from the client or served to it, and it must read at least `PROGRESS_BYTES` in each
`answer_timeout_s`, or all that is left; else it is cut off, as it is when there is no room for what
it does not read. Nobody can be told then: who does not read, does not read that either.

Used by `penstock.gateway.http.server.connection`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from penstock.gateway.memory.held_bytes import UNREAD, HeldBytes, HeldShare
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.process.telemetry import get_logger

BUFFER_BYTES_MAX = 16 * 1024
"""Most unread bytes of a connection that count nowhere: as much as the connection itself takes."""

PROGRESS_BYTES = 256 * 1024
"""What a client must read within the time that it has, if it does not read all: with 30 s, as much
as the slowest mobile networks give."""

ANSWER_TIMEOUT_S = 30.0
LINGER_S = 2.0

KEEP_ALIVE_S = 75.0
"""How long a connection without a request is kept. Clients and proxies close theirs after up to a
minute (the usual settings are 15 to 60 s), and who closes first loses no request."""

_log = get_logger("gateway.connections")


@dataclass
class ClientBounds:
    """Bounds of what clients may make a server hold; shared by all of its connections.

    Attributes:
        held: the gateway's budget.
        answer_timeout_s: see the module's docstring.
        linger_s: how long what comes of a refused body is thrown away, so that its sender gets to
            read the answer before the connection ends.
        keep_alive_s: how long a connection without a request is kept.
        cut_off: clients that were cut off because they did not read their answers.
    """

    held: HeldBytes = field(default_factory=HeldBytes)
    answer_timeout_s: float = ANSWER_TIMEOUT_S
    linger_s: float = LINGER_S
    keep_alive_s: float = KEEP_ALIVE_S
    cut_off: int = 0


class UnreadAnswers:
    """See the module's docstring. One for each connection.

    Args:
        transport: of the connection.
        bounds: of its server.
    """

    def __init__(self, transport: asyncio.Transport, bounds: ClientBounds) -> None:
        self._transport = transport
        self._bounds = bounds
        self._share = HeldShare(bounds.held, UNREAD)
        self._left_bytes = 0  # when the time began
        self._written_bytes = 0  # since then, at least
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The transport holds more than it should."""
        if self.count():
            self._left_bytes = self._share.size_bytes
            self._wait()

    def count(self) -> bool:
        """Count what the transport holds now; false if the client is cut off for it."""
        size_bytes = self._transport.get_write_buffer_size()
        self._written_bytes += max(0, size_bytes - self._share.size_bytes)
        try:
            self._share.resize(size_bytes)
        except PenstockError:
            self._cut_off("no room for what it does not read")
            return False
        return True

    def end(self) -> None:
        """The client has read nearly all, or has left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._written_bytes = 0
        self._share.release()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._bounds.answer_timeout_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.count():
            return
        left_bytes = self._share.size_bytes
        if self._left_bytes + self._written_bytes - left_bytes < PROGRESS_BYTES:
            self._cut_off("it reads too slowly")
            return
        self._left_bytes, self._written_bytes = left_bytes, 0
        self._wait()

    def _cut_off(self, reason: str) -> None:
        self._bounds.cut_off += 1
        unread_bytes = self._transport.get_write_buffer_size()
        _log.info("client cut off", reason=reason, unread_bytes=unread_bytes)
        self._transport.abort()
        self.end()

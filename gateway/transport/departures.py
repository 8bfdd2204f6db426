"""Hears that a connection of the gateway's socket has ended, whosever it was.

libzmq tells of it through a monitor, without the name of the peer; which one it was shows when each
is sent something. Without this, a replica that died is found by the next probe (0.1 s), and until
then calls that it held wait, and are hedged: one that had killed it might kill a second replica.

Used by `penstock.gateway.transport.router`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmq

LOOK_DELAY_S = 0.005
"""How long after a connection has ended peers are looked at: libzmq tells its monitor a little
before it tells the socket. Also how often that happens at most, whoever comes and goes."""


class Departures:
    """See the module's docstring.

    Args:
        socket: to be watched; not yet bound.
        on_departure: called in the event loop, some time after connections have ended.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_departure: Callable[[], None]) -> None:
        self._socket = socket
        self._on_departure = on_departure
        self._monitor: zmq.Socket[bytes] | None = None
        self._look: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Hear from now on, in the running event loop."""
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        loop = asyncio.get_running_loop()
        loop.add_reader(int(self._monitor.getsockopt(zmq.FD)), self._read)
        loop.call_soon(self._read)

    def close(self) -> None:
        """Hear no more."""
        if self._monitor is None:
            return
        asyncio.get_running_loop().remove_reader(int(self._monitor.getsockopt(zmq.FD)))
        self._socket.disable_monitor()
        self._monitor = None
        if self._look is not None:
            self._look.cancel()

    def _read(self) -> None:
        """ZeroMQ signals edges: read until there is nothing left."""
        while self._monitor is not None:
            try:
                self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if self._look is None:
                loop = asyncio.get_running_loop()
                self._look = loop.call_later(LOOK_DELAY_S, self._tell)

    def _tell(self) -> None:
        self._look = None
        self._on_departure()

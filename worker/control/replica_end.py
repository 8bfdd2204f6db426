"""A replica's end of the socket pair to its agent."""

from __future__ import annotations

import os
import select
import socket
import time

from penstock.worker.control.messages import (
    LINE_BYTES_MAX,
    Heartbeat,
    ToAgent,
    ToReplica,
    decode_for_replica,
    encode_line,
)

AGENT_READS_S = 5.0
"""Longest wait for the agent to read what it must know; it may be busy, or stopped for a while."""


class ControlSocket:
    """The replica's end of the socket pair to its agent; its end of file ends the replica."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._buffer = b""
        self._unsent = b""

    def fileno(self) -> int:
        """For polling."""
        return self._socket.fileno()

    def wait(self) -> list[ToReplica]:
        """Block until messages have come."""
        messages: list[ToReplica] = []
        while not messages:
            select.select([self._socket], [], [])
            messages = self.receive()
        return messages

    def receive(self) -> list[ToReplica]:
        """Messages that have come; ends the process if the agent is gone."""
        try:
            data = self._socket.recv(LINE_BYTES_MAX)
        except BlockingIOError:
            return []
        except ConnectionError:
            data = b""
        if not data:
            os._exit(0)  # nobody is left to drain for
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [decode_for_replica(line) for line in lines]

    def send(self, message: ToAgent) -> None:
        """Tell the agent. While it does not read, heartbeats are dropped, and nothing else."""
        if self._unsent and isinstance(message, Heartbeat):
            self.flush(0.0)
            if self._unsent:
                return
        self._unsent += encode_line(message)
        self.flush(0.0 if isinstance(message, Heartbeat) else AGENT_READS_S)

    def flush(self, timeout_s: float) -> None:
        """Send what is pending, waiting for the agent to read it for at most `timeout_s`."""
        give_up = time.monotonic() + timeout_s
        try:
            while self._unsent:
                remaining_s = max(give_up - time.monotonic(), 0.0)
                if not select.select([], [self._socket], [], remaining_s)[1]:
                    return
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except ConnectionError:
            self._unsent = b""  # the end of file, when it is read, ends the process

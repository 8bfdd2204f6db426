"""A replica's line to its job port: starts the port's process, and talks with it from the loop.

Nothing here waits, but `close`. What the port does not take at once is sent when it reads; that is
bounded by the jobs that are held, and for what streams tell by `TOLD_BYTES_MAX`. Of what comes, so
much is read in one turn of the loop.

A port that dies is replaced, and the replica stays: calls must not pay for it. Its jobs are told to
be lost, and the next port returns to the queue what that one had leased.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from penstock.shared.contracts.errors import WireError
from penstock.shared.jobs.answers import Progress
from penstock.shared.process.lifecycle import environment_of_child
from penstock.shared.process.telemetry import get_logger
from penstock.worker.control.thread_limits import thread_limits
from penstock.worker.job_line.messages import Begin, FromPort, Leased, Leave, PortLost, Told, ToPort
from penstock.worker.job_line.packets import READ_BYTES, PacketReader, PacketWriter
from penstock.worker.job_line.wire import decode, encode
from penstock.worker.jobs.port_watch import PortWatch
from penstock.worker.replica.mailbox import Mailbox
from penstock.worker.replica.poll import Waiting

NICE = 10
"""How much the port's process stands behind others where processors are short. Calls go first; with
a tenth of a processor's time beside one that is busy, it still keeps its leases."""

READS_PER_TURN = 4
"""Reads before others get their turn: a megabyte at most."""

TOLD_BYTES_MAX = 64 << 20
"""While more waits to be sent, outputs of streams are dropped; answers are not."""

log = get_logger("jobs")


class PortLink:
    """See the module's docstring. The replica's loop uses it, on the process's main thread.

    Args:
        waiting: what the loop waits with.
        silent_s_max: how long the port may say nothing.

    Attributes:
        told: takes what models say while they are executed; any thread may put it.
    """

    def __init__(self, waiting: Waiting, silent_s_max: float) -> None:
        self.told: Mailbox[Told] = Mailbox()
        self._waiting = waiting
        self._watch = PortWatch(silent_s_max)
        self._begin: Begin | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._reader = PacketReader()
        self._writer = PacketWriter()
        self._is_writing = False
        self._last_number = 0
        waiting.add(self.told.wake_fd)

    def __repr__(self) -> str:
        waits = self._writer.waiting_bytes
        return f"<PortLink {'up' if self.is_up else 'down'}, {waits} bytes to be sent>"

    @property
    def is_up(self) -> bool:
        """Whether there is a port to talk to."""
        return self._connection is not None

    def spawn(self) -> None:
        """Start the port's process, which waits for `begin`.

        Early, and from the main thread: the process is light, and starts beside the model's load; a
        model's code has changed nothing of ours yet.
        """
        if self._process is not None:
            self._process.wait()  # it was killed
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [*_command(), "--fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env={**environment_of_child(), **thread_limits(1)},
                    pass_fds=[theirs.fileno()],
                )
            except OSError as error:
                ours.close()
                log.warning("no job port can be started", reason=error.strerror)
                self._watch.died(time.monotonic())
                return
        nice = os.getpriority(os.PRIO_PROCESS, 0) + NICE  # the kernel takes 19 for more
        with suppress(OSError):  # it ended already
            os.setpriority(os.PRIO_PROCESS, self._process.pid, nice)
        ours.setblocking(False)
        self._connection = ours
        self._reader, self._writer = PacketReader(), PacketWriter()
        self._watch.began(time.monotonic())

    def begin(self, begin: Begin) -> None:
        """The model is loaded."""
        self._begin = begin
        if self._connection is not None:
            self._waiting.add(self._connection.fileno())
            self.tell(begin)

    def tell(self, message: ToPort) -> None:
        """Something for the port to do; what is told to a port that is gone goes with it."""
        if self._connection is None:
            return
        self._writer.put(encode(message))
        self._flush()

    def pass_on(self) -> None:
        """Tell the port what models said until now."""
        for told in self.told.collect():
            if isinstance(told.said, Progress) or self._writer.waiting_bytes <= TOLD_BYTES_MAX:
                self.tell(told)

    def receive(self, ready: Mapping[object, int]) -> list[FromPort | PortLost]:
        """What the port said.

        Args:
            ready: descriptors that something can be done with.
        """
        if self.told.wake_fd in ready:
            self.pass_on()
        if self._connection is None or self._connection.fileno() not in ready:
            return []
        self._flush()
        messages: list[FromPort | PortLost] = []
        try:
            for _ in range(READS_PER_TURN):
                count = self._connection.recv_into(self._reader.space())
                if not count:
                    return [*messages, self._lost()]
                for frames in self._reader.filled(count):
                    messages.append(self._heard(decode(frames)))  # type: ignore[arg-type]
        except BlockingIOError:
            pass
        except (ConnectionError, WireError) as error:
            log.warning("the job port's line broke", reason=str(error))
            return [*messages, self._lost()]
        return messages

    def next_look(self) -> float:
        """When `look` must be called at the latest, in monotonic time."""
        return self._watch.next_look()

    def look(self, now: float) -> None:
        """End a port that is silent for too long; replace one that is gone."""
        if self._watch.must_end(now) and self._process is not None:
            log.warning("the job port is silent: it is ended", pid=self._process.pid)
            self._process.kill()
        if self._watch.must_start(now) and self._begin is not None:
            self.spawn()
            if self.is_up:
                self.begin(replace(self._begin, numbers_after=self._last_number, inherits=True))

    def close(self, timeout_s: float) -> bool:
        """Have the port give back what is held and tell the store what it is owed, and end.

        Returns:
            Whether it did so in time.
        """
        self.pass_on()
        self.tell(Leave())
        if self._connection is None:
            return True
        give_up = time.monotonic() + timeout_s
        poll = select.poll()
        while (rest_s := give_up - time.monotonic()) > 0:
            writes = select.POLLOUT if self._writer.waiting_bytes else 0
            poll.register(self._connection, select.POLLIN | writes)
            poll.poll(rest_s * 1000)
            self._flush()
            with suppress(BlockingIOError):
                try:
                    if not self._connection.recv(READ_BYTES):
                        return True
                except ConnectionError:
                    return True
        return False

    def _heard(self, message: FromPort) -> FromPort:
        self._watch.heard()
        if isinstance(message, Leased) and message.numbers:
            self._last_number = max(self._last_number, *message.numbers)
        return message

    def _flush(self) -> None:
        """Send what can be sent now."""
        assert self._connection is not None
        try:
            while pieces := self._writer.pieces():
                self._writer.sent(self._connection.sendmsg(pieces))
        except BlockingIOError:
            pass
        except ConnectionError:
            return  # its end will be read
        if self._is_writing != bool(self._writer.waiting_bytes):
            self._is_writing = not self._is_writing
            self._waiting.watch_writes(self._connection.fileno(), watch=self._is_writing)

    def _lost(self) -> PortLost:
        assert self._connection is not None
        assert self._process is not None
        self._waiting.remove(self._connection.fileno())
        self._connection.close()
        self._connection = None
        self._is_writing = False
        self._process.kill()
        self._watch.died(time.monotonic())
        log.warning("the job port is gone: its jobs run again", pid=self._process.pid)
        return PortLost()


def _command() -> list[str]:
    isolated = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *isolated, "-m", "penstock.worker.job_port"]

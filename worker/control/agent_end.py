"""One child process: the seam between the agent and a replica.

The parent's end is non-blocking and served by the event loop. Of each kind of message only the
newest waits to be sent, since each replaces the one before it; that bounds what waits for a replica
which does not read, such as one whose model holds the interpreter while it loads.

Children are spawned from the main thread, because the parent-death signal fires when the spawning
thread ends, and in sessions of their own, so that `kill` reaches whatever they started and a Ctrl-C
at the terminal does not reach them. What a model started in a session of its own is found by
descent: it stays its replica's while that lives, becomes the worker's then, and is killed. Linux
only: ends are noticed through a pidfd.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from pydantic import ValidationError

from penstock.shared.process.lifecycle import end_orphans, environment_of_child
from penstock.worker.control.messages import (
    LINE_BYTES_MAX,
    Start,
    ToAgent,
    ToReplica,
    decode_for_agent,
    encode_line,
)
from penstock.worker.control.thread_limits import thread_limits
from penstock.worker.jobs.begun import JOBS_MAX, new_memory, read_begun
from penstock.worker.jobs.desk import BATCHES_HELD

READ_BYTES = 64 * 1024
"""Read at a time."""

READS_AT_END_MAX = 64
"""Reads of what a dead replica left; its own children may still be writing."""

ORPHANS_LOOK_S = 0.1
"""How often what replicas left behind is looked for while there is some: killing takes a moment,
and lets appear what the killed ones had started."""

REPLICA_COMMAND = (sys.executable, "-m", "penstock.worker.replica")
"""The program of a replica; `--control-fd N` is appended."""


class ReplicaHandle(Protocol):
    """A child that lives, or lived."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    @property
    def begun_jobs(self) -> Collection[str] | None:
        """Ids of the jobs that it began last, once it has ended; None: not known."""
        ...

    def send(self, message: ToReplica) -> None:
        """Send a message as soon as the replica reads; the newest of each kind counts."""
        ...

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        ...

    def kill(self) -> None:
        """End the process and all in its process group (SIGKILL)."""
        ...


class Spawner(Protocol):
    """What starts replicas."""

    def spawn(
        self,
        start: Start,
        on_message: Callable[[ToAgent], None],
        on_end: Callable[[str], None],
    ) -> ReplicaHandle:
        """Start a replica and hand it `start`.

        Args:
            start: with the number of threads resolved.
            on_message: called from the event loop with each message, in order.
            on_end: called from the event loop, once, last, with how the process ended.

        Raises:
            OSError: if the process cannot be started; nothing is called then.
        """
        ...

    async def all_gone(self) -> None:
        """Wait until nothing is left of what ended replicas had started."""
        ...


class ProcessSpawner:
    """Starts replicas as child processes of this one.

    Args:
        command: program and arguments.
        environment: variables for them beyond ours.
        adopts: this process has called `adopt_orphans`, and starts nothing else in other sessions.
    """

    def __init__(
        self,
        command: Sequence[str] = REPLICA_COMMAND,
        environment: Mapping[str, str] | None = None,
        *,
        adopts: bool = False,
    ) -> None:
        self._command = tuple(command)
        self._environment = dict(environment or {})
        self._adopts = adopts
        self._living: set[int] = set()
        self._next_look: asyncio.TimerHandle | None = None

    def spawn(
        self,
        start: Start,
        on_message: Callable[[ToAgent], None],
        on_end: Callable[[str], None],
    ) -> ReplicaHandle:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("replicas are spawned from the main thread only")
        begun = _Begun()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                start = begun.open_for(start)
                process = subprocess.Popen(
                    [*self._command_for(start), "--control-fd", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=replica_environment(start.settings.threads) | self._environment,
                    pass_fds=[theirs.fileno(), *begun.descriptors],
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            begun.close()
            raise

        def ended(how: str) -> None:
            self._living.discard(process.pid)
            self._end_orphans()
            on_end(how)

        self._living.add(process.pid)
        replica = ReplicaProcess(process, ours, on_message, ended, begun)
        try:
            replica.attach(asyncio.get_running_loop())
        except OSError:  # no descriptor left to notice its end by: nobody may lose sight of it
            replica.kill()
            process.wait()
            self._living.discard(process.pid)
            ours.close()
            begun.close()
            raise
        replica.send(start)
        return replica

    async def all_gone(self) -> None:
        while self._adopts and end_orphans(self._living):  # noqa: ASYNC110 - they are others'
            await asyncio.sleep(ORPHANS_LOOK_S)

    def _end_orphans(self) -> None:
        """Kill what replicas that have ended left behind, until there is nothing."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if self._adopts and end_orphans(self._living):
            loop = asyncio.get_running_loop()
            self._next_look = loop.call_later(ORPHANS_LOOK_S, self._end_orphans)

    def _command_for(self, start: Start) -> tuple[str, ...]:
        if not start.interpreter:
            return self._command
        # Isolated: nothing of our own environment or working folder is to be found by imports.
        return (start.interpreter, "-I", "-m", "penstock.worker.replica")


def replica_environment(threads: int | None) -> dict[str, str]:
    """The environment of a replica whose numeric libraries are to use so many threads."""
    # CUDA numbers GPUs by speed unless told to number them as the driver does, as we do.
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **environment_of_child(), **thread_limits(threads)}


class _Begun:
    """Our end of the memory in which a replica writes down what jobs it begins, if it runs any."""

    def __init__(self) -> None:
        self.descriptors: tuple[int, ...] = ()
        self.jobs: Collection[str] | None = None

    def open_for(self, start: Start) -> Start:
        """Make the memory; the start message that says where it is."""
        settings = start.settings
        held_max = settings.job_concurrency or BATCHES_HELD * settings.max_batch_size
        if start.jobs is None or held_max > JOBS_MAX:
            return start
        self.descriptors = (new_memory(),)
        jobs = start.jobs.model_copy(update={"begun_fd": self.descriptors[0]})
        return start.model_copy(update={"jobs": jobs})

    def close(self) -> None:
        """Nothing will be written any more: what was is in `jobs`."""
        for descriptor in self.descriptors:
            with suppress(OSError):
                self.jobs = read_begun(descriptor)
            os.close(descriptor)
        self.descriptors = ()


class ReplicaProcess:
    """A child process and our end of its socket pair.

    Args:
        process: the child.
        control: our end.
        on_message, on_end: see `Spawner.spawn`.
        begun: what it begins.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        on_message: Callable[[ToAgent], None],
        on_end: Callable[[str], None],
        begun: _Begun,
    ) -> None:
        self._begun = begun
        self._process = process
        self._control = control
        self._on_message = on_message
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pidfd = -1
        self._received = bytearray()
        self._sending = memoryview(b"")
        self._waiting: dict[str, ToReplica] = {}
        self._reading = self._writing = False
        self._fault = ""

    def __repr__(self) -> str:
        return f"<ReplicaProcess {self.pid} {'lives' if self._alive else 'ended'}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def begun_jobs(self) -> Collection[str] | None:
        return self._begun.jobs

    @property
    def _alive(self) -> bool:
        """Whether the process id is still ours: the process lives, or was not yet reaped."""
        return self._process.returncode is None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen to the child and for its end."""
        self._loop = loop
        self._control.setblocking(False)
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._ended)
        loop.add_reader(self._control, self._readable)
        self._reading = True

    def send(self, message: ToReplica) -> None:
        if not self._alive:
            return
        self._waiting.pop(message.type, None)  # the newest goes to the end: order is by sending
        self._waiting[message.type] = message
        if not self._writing:
            self._writable()

    def terminate(self) -> None:
        if self._alive:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self._alive:
            os.killpg(self.pid, signal.SIGKILL)

    # Event loop callbacks

    def _writable(self) -> None:
        try:
            while self._sending or self._waiting:
                if not self._sending:
                    message = self._waiting.pop(next(iter(self._waiting)))
                    self._sending = memoryview(encode_line(message))
                sent = self._control.send(self._sending)
                self._sending = self._sending[sent:]
        except BlockingIOError:
            self._watch_writes(True)
            return
        except OSError:  # the replica closed its end: it ends, or it will be found silent
            self._waiting.clear()
            self._sending = memoryview(b"")
        self._watch_writes(False)

    def _watch_writes(self, watch: bool) -> None:
        if self._loop is None or watch == self._writing:
            return
        self._writing = watch
        if watch:
            self._loop.add_writer(self._control, self._writable)
        else:
            self._loop.remove_writer(self._control)

    def _readable(self) -> None:
        if not self._read():
            self._stop_reading()

    def _read(self) -> bool:
        """Read once; False if nothing more is to come."""
        try:
            received = self._control.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not received or self._fault:
            return False
        *lines, rest = (bytes(self._received) + received).split(b"\n")
        self._received = bytearray(rest)
        for line in lines:
            if not self._take(line):
                return False
        if len(rest) > LINE_BYTES_MAX:
            self._give_up("sent a line that is too long")
        return not self._fault

    def _take(self, line: bytes) -> bool:
        try:
            message = decode_for_agent(line)
        except ValidationError:
            self._give_up("sent a line that is no message")
            return False
        self._on_message(message)
        return True

    def _give_up(self, fault: str) -> None:
        """What breaks the protocol cannot be led any more; its end is reported as any other."""
        self._fault = fault
        self.kill()

    def _stop_reading(self) -> None:
        if self._reading and self._loop is not None:
            self._reading = False
            self._loop.remove_reader(self._control)

    def _ended(self) -> None:
        assert self._loop is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # What it said last comes first. A dead process keeps its id until it is reaped, so its
        # process group is ended before that.
        for _ in range(READS_AT_END_MAX):
            if not self._reading or not self._pending():
                break
            self._readable()
        self._stop_reading()
        self._watch_writes(False)
        self._control.close()
        self.kill()
        how = _how_it_ended(self._process.wait())
        self._begun.close()
        self._on_end(f"{self._fault}, {how}" if self._fault else how)

    def _pending(self) -> bool:
        """Whether there is something to read, or the end of it."""
        try:
            self._control.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True


def _how_it_ended(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    return f"ended by {name}"

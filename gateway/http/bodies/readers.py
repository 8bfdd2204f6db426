"""Processes that read large bodies, so that other requests have their turn meanwhile.

There are at most `READERS_MAX`, started when a body needs one and ended when none has for a while.
A thread waits for each. Bodies beyond that wait in a line with a bound of its own; one whose client
has gone, or whose time is over, leaves the line.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from penstock.gateway.http.bodies.wire import (
    Question,
    ReaderGoneError,
    Unforeseen,
    receive,
    send,
    untouched,
)
from penstock.gateway.http.payload import P, PayloadFormat, RawHeaders
from penstock.gateway.memory.trim import trim_soon
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.process.lifecycle import environment_of_child
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.tensors import Buffer

PROGRAM = "penstock.gateway.http.body_process"
"""Knows the formats, which this room does not."""

READERS_MAX = 2
"""Processes that read at a time. A core that reads bodies does not answer small requests."""

WAITING_MAX = 1024
"""Bodies that wait for one. Each has 256 KiB and more, which the budget over held bytes bounds."""

IDLE_S = 60.0
"""A process that had nothing to read for so long is ended: it takes some 45 MB."""

READING_S_MAX = 60.0
"""Longest that a process may take for a body: many times what the largest needs. It is ended."""

FULL = "as many large bodies wait to be read as may: try again later"
LATE = "the time of this request was over before its body had been read"
INTERNAL = "internal error"
GONE = "the process that read the body of this request ended: try again"

_log = get_logger("gateway.http")


class _Reader:
    """One process, and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(READING_S_MAX)
        self.idle_since_s = 0.0
        with theirs:
            number = str(theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, number],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment_of_child() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )

    def send(self, question: Question) -> None:
        send(self._connection, question)

    def receive(self) -> Any:
        answer = receive(self._connection, untouched)
        self.idle_since_s = time.monotonic()
        return answer

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


class BodyReaders:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(READERS_MAX, "body-reader")
        self._lock = threading.Lock()  # guards what follows
        self._idle: list[_Reader] = []
        self._alive: set[_Reader] = set()
        self._in_line = 0
        self._closed = False

    async def read(
        self,
        payload: PayloadFormat[P],
        body: list[Buffer],
        headers: RawHeaders,
        interface: ModelInterface,
        max_elements: int,
        timeout_s: float | None = None,
    ) -> P:
        """What a body says.

        Args:
            payload: its format.
            body: a list of nothing else, which is empty as soon as the body was sent on.
            headers: that came with it.
            interface: the model's.
            max_elements: most numbers and texts in it.
            timeout_s: how long to wait for that; None: no longer than a process may take.

        Raises:
            PenstockError: INVALID_INPUT, or what else is wrong with it; QUEUE_FULL, if too many
                wait; DEADLINE_EXCEEDED; UNAVAILABLE, if the process that read it ended.
        """
        described = interface.model_dump_json().encode()
        question = Question(payload.name, dict(headers), described, max_elements)
        with self._lock:
            if self._in_line >= WAITING_MAX + READERS_MAX:
                raise PenstockError(ErrorCode.QUEUE_FULL, FULL)
            self._in_line += 1
        reading = self._threads.submit(self._read, question, body)
        reading.add_done_callback(self._leave)
        try:
            async with asyncio.timeout(READING_S_MAX if timeout_s is None else timeout_s):
                answer = await asyncio.wrap_future(reading)
        except TimeoutError:
            raise PenstockError(ErrorCode.DEADLINE_EXCEEDED, LATE) from None
        finally:
            body.clear()
            trim_soon()
        asyncio.get_running_loop().call_later(IDLE_S + 1, self._end_idle)
        if isinstance(answer, Unforeseen):
            _log.error("reading a body failed", traceback=answer.traceback)
            raise PenstockError(ErrorCode.INTERNAL, INTERNAL)
        if isinstance(answer, PenstockError):
            raise answer
        parsed: P = answer
        return parsed

    def close(self) -> None:
        """End all processes; bodies that are being read fail."""
        with self._lock:
            self._closed = True
            alive = list(self._alive)
        for reader in alive:
            reader.kill()
        self._threads.shutdown(cancel_futures=True)
        for reader in alive:
            reader.close()

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self._in_line -= 1

    def _read(self, question: Question, body: list[Buffer]) -> Any:
        """The answer of a process; runs in a thread."""
        try:
            question.body = pickle.PickleBuffer(body.pop())
        except IndexError:  # nobody waits for it any more
            return PenstockError(ErrorCode.CANCELLED, "the request was given up")
        reader = self._taken()
        try:
            reader = reader or self._started()
            reader.send(question)
            question.body = None
            answer = reader.receive()
        except (ReaderGoneError, OSError):
            if reader is not None:
                self._end(reader)
            return PenstockError(ErrorCode.UNAVAILABLE, GONE)
        with self._lock:
            self._idle.append(reader)
        return answer

    def _taken(self) -> _Reader | None:
        """One that has nothing to do, if there is any."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                reader = self._idle.pop()
            if reader.is_alive:
                return reader
            self._end(reader)

    def _started(self) -> _Reader:
        """A new one.

        Raises:
            OSError: if it cannot be started, or all are to end.
        """
        reader = _Reader()  # not under the lock, for which the loop would wait
        with self._lock:
            self._alive.add(reader)
            if not self._closed:
                return reader
        self._end(reader)
        raise OSError("all are to end")

    def _end(self, reader: _Reader) -> None:
        reader.close()
        with self._lock:
            self._alive.discard(reader)

    def _end_idle(self) -> None:
        """End the processes that have had nothing to do for a while."""
        latest_s = time.monotonic() - IDLE_S
        with self._lock:
            ended = [reader for reader in self._idle if reader.idle_since_s <= latest_s]
            self._idle = [reader for reader in self._idle if reader.idle_since_s > latest_s]
        for reader in ended:
            self._threads.submit(self._end, reader)


body_readers = BodyReaders()
"""Of this gateway."""

"""The process of a job port, beside its replica: `python -m penstock.worker.job_port --fd
N`.

It is apart so that what jobs take of the interpreter is not the replica's loop's: two threads of
one process that are both at work hand the interpreter to each other at every message. It is started
by its replica, ends with it, and imports nothing that a model needs.

The main thread reads what the loop says, and ends the process when the loop's end closes: whatever
ended the replica, its jobs are the agent's business then. Another thread writes, since a loop may
not read for as long as its model holds the interpreter, and no heartbeat may wait for that; what
waits to be written is bounded by what the loop pulled.
"""

from __future__ import annotations

import argparse
import os
import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

import setproctitle

from penstock.shared.jobs.blobs import BlobStore
from penstock.shared.jobs.blocking_store import BlockingJobStore, BlockingWakeUp
from penstock.shared.process.lifecycle import die_with_parent
from penstock.shared.process.telemetry import get_logger, inherit_logging
from penstock.shared.store.keys import Keys
from penstock.worker.job_line.messages import Alive, Begin, FromPort, Leave, ToPort
from penstock.worker.job_line.packets import PacketReader, PacketWriter
from penstock.worker.job_line.wire import decode, encode
from penstock.worker.job_port.port import JobPort

EXIT_FAULT = 70

log = get_logger("jobs")


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser(description="A replica's job port; started by its replica.")
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    die_with_parent()
    threading.excepthook = _fail
    connection = socket.socket(fileno=arguments.fd)
    messages = _messages(connection)
    begin = next(messages, None)
    if isinstance(begin, Begin):
        _run(begin, connection, messages)


def _run(begin: Begin, connection: socket.socket, messages: Iterator[ToPort]) -> NoReturn:
    terms = begin.terms
    setproctitle.setproctitle(f"penstock job-port {terms.model}/{begin.version}")
    inherit_logging(
        process="job-port",
        replica=terms.holder,
        model=terms.model,
        version=begin.version,
    )
    writer = _Writer(connection, terms.heartbeat_s)
    threading.Thread(target=writer.run, name="writer", daemon=True).start()
    port = _port(begin, writer)
    port.start()
    writer.put(Alive())
    for message in messages:
        port.tell(message)
        if isinstance(message, Leave):
            port.wait()
            break
    os._exit(0)


def _port(begin: Begin, writer: _Writer) -> JobPort:
    terms, url, keys = begin.terms, begin.redis_url, Keys(begin.namespace)
    return JobPort(
        terms,
        begin.interface,
        BlockingJobStore(url, keys),
        wake_up=BlockingWakeUp(url, keys.job_queue(terms.model, terms.revision)),
        cancels=BlockingWakeUp(url, keys.job_holder(terms.holder)),
        blobs=BlobStore(begin.blobs_url, begin.namespace) if begin.blobs_url else None,
        to_loop=writer.put,
        numbers_after=begin.numbers_after,
        inherits=begin.inherits,
    )


def _messages(connection: socket.socket) -> Iterator[ToPort]:
    """What the loop says, until its end closes."""
    reader = PacketReader()
    with suppress(ConnectionError):
        while count := connection.recv_into(reader.space()):
            for frames in reader.filled(count):
                yield decode(frames)  # type: ignore[misc]  # a loop says nothing else


class _Writer:
    """Tells the loop; what is put waits for it to read.

    Args:
        connection: to the loop.
        quiet_s: after how long without anything else it is told that the process runs.
    """

    def __init__(self, connection: socket.socket, quiet_s: float) -> None:
        self._connection = connection
        self._quiet_s = quiet_s
        self._messages: queue.SimpleQueue[FromPort] = queue.SimpleQueue()

    def put(self, message: FromPort) -> None:
        """Something to tell. Any thread may call this."""
        self._messages.put(message)

    def run(self) -> None:
        """Write until the process ends."""
        packets = PacketWriter()
        while True:
            packets.put(encode(self._next()))
            while pieces := packets.pieces():
                try:
                    packets.sent(self._connection.sendmsg(pieces))
                except ConnectionError:
                    os._exit(0)  # nobody is left to tell

    def _next(self) -> FromPort:
        try:
            return self._messages.get(timeout=self._quiet_s)
        except queue.Empty:
            return Alive()


def _fail(arguments: threading.ExceptHookArgs) -> None:
    """A thread ended by an error of ours: the others alone would only seem to work."""
    error = arguments.exc_value
    if error is None:
        os._exit(EXIT_FAULT)
    trace: TracebackType | None = arguments.exc_traceback
    log.error("the job port failed", exc_info=(type(error), error, trace))
    os._exit(EXIT_FAULT)


if __name__ == "__main__":
    main()

"""A process that reads large bodies for a gateway; `penstock.gateway.http.body_process` starts it.

A reader of JSON holds the interpreter for as long as a document takes, which would stop all other
requests of the gateway; here it stops nobody. It ends when the gateway closes the connection, or
ends itself, and at nothing else.
"""

from __future__ import annotations

import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from penstock.gateway.http.bodies.wire import Question, ReaderGoneError, Unforeseen, receive, send
from penstock.gateway.http.payload import ParsedCall, RawHeaders
from penstock.gateway.memory.trim import keep_little, trim
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.process.lifecycle import die_with_parent
from penstock.shared.wire.tensors import Buffer

Read = Callable[[Buffer, RawHeaders, ModelInterface, int], ParsedCall]
"""Of a body, with its headers, for a model, at most so many elements."""

TRACEBACK_FRAMES_MAX = 20
"""Most frames of a traceback that are told: the innermost."""


def answer(
    question: Question, readers: Mapping[str, Read]
) -> ParsedCall | PenstockError | Unforeseen:
    """What the body says, or why it is refused."""
    interface = ModelInterface.model_validate(orjson.loads(question.interface))
    read = readers[question.payload]
    body: Any = question.body  # what was sent as a `PickleBuffer` comes as what holds it
    question.body = None
    try:
        return read(body, question.headers, interface, question.max_elements)
    except PenstockError as error:
        return error
    except Exception:  # one such body must not end the process, as if another try would help
        return Unforeseen(traceback.format_exc(limit=-TRACEBACK_FRAMES_MAX))


def serve(connection: socket.socket, readers: Mapping[str, Read]) -> None:
    """Answer until the other end closes the connection."""
    while True:
        try:
            send(connection, answer(receive(connection, bytearray), readers))
        except (ReaderGoneError, OSError):
            return
        trim()


def main(readers: Mapping[str, Read]) -> None:
    """Serve the connection whose number the command line names.

    Args:
        readers: by the names of the payload formats.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to a group, it is meant for the gateway
    die_with_parent()
    keep_little()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection, readers)

"""Says which replicas may connect over tcp: those whose public key is one of the workers'.

libzmq asks at every handshake, over a socket inside the process (ZAP, ZeroMQ's RFC 27), and waits
for the answer without blocking anything; peers that do not even try CURVE never get that far, and
are hung up on. The doorkeeper answers from the event loop, like
`penstock.gateway.transport.router`, whose socket it guards: it must share its context, and be there
before it binds.
"""

from __future__ import annotations

import asyncio
import time

import zmq

from penstock.shared.process.telemetry import get_logger

log = get_logger("doorkeeper")

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"

LOG_INTERVAL_S = 10.0
"""Refusals are told at most so often: who is refused tries again, many times a second."""


class Doorkeeper:
    """See the module's docstring.

    Args:
        context: of the sockets to guard.
        admitted: public keys, 32 bytes each.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], admitted: frozenset[bytes]) -> None:
        self._context = context
        self._admitted = admitted
        self._socket: zmq.Socket[bytes] | None = None
        self._refused = 0
        self._log_at = 0.0

    def open(self) -> None:
        """Answer from now on, in the running event loop."""
        answers: zmq.Socket[bytes] = self._context.socket(zmq.REP)
        answers.setsockopt(zmq.LINGER, 0)
        answers.bind(ZAP_ENDPOINT)
        self._socket = answers
        loop = asyncio.get_running_loop()
        loop.add_reader(int(answers.getsockopt(zmq.FD)), self._answer_all)
        loop.call_soon(self._answer_all)

    def close(self) -> None:
        """Answer no more."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(int(self._socket.getsockopt(zmq.FD)))
            self._socket.close()
            self._socket = None

    def _answer_all(self) -> None:
        """ZeroMQ signals edges: answer until nobody asks any more."""
        while self._socket is not None:
            try:
                question = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._socket.send_multipart(self._answer(question))

    def _answer(self, question: list[bytes]) -> list[bytes]:
        _, request_id, _, address, _, mechanism, *credentials = question
        if mechanism == b"CURVE" and credentials and credentials[0] in self._admitted:
            return [ZAP_VERSION, request_id, b"200", b"OK", b"", b""]
        self._refused += 1
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_INTERVAL_S
            log.warning(
                "refused a connection: its key is not one of the workers'",
                address=address.decode(errors="replace"),
                refused=self._refused,
            )
        return [ZAP_VERSION, request_id, b"400", b"unknown key", b"", b""]

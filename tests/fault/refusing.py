"""A peer that speaks the replica's side of the wire, answers, and from some time on refuses all.

A real replica refuses only when its queue is full, and a queue takes its first item always; so what
refuses everything is played here. It runs in a thread of its own and shares nothing but a flag.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import zmq

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.routing import ModelRoute, VersionRoute
from penstock.shared.wire.codec import decode, encode
from penstock.shared.wire.frames import send_frames
from penstock.shared.wire.messages import (
    Envelope,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    NackReason,
    Probe,
    Request,
)
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from penstock.worker.replica.links import dial, receive

POLL_MS = 20
ROW_US = 100
"""What it says a row takes: as little as a small model that answers."""


class RefusingPeer:
    """Answers `scale` times its input until `refusing` is set, and then with Nacks."""

    def __init__(self, endpoint: str, name: str, interface: ModelInterface, scale: float) -> None:
        self.refusing = threading.Event()
        self._endpoint = endpoint
        self._name = name
        self._interface = interface
        self._scale = scale
        self._ended = threading.Event()

    def run(self) -> None:
        """Serve until it is told to end."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        link = dial(context, self._name, self._endpoint, None)
        while not self._ended.is_set():
            if not link.poll(POLL_MS):
                continue
            frames = receive(link)
            envelope = decode(frames) if frames else Envelope("")
            answers = [self._answer(message) for message in envelope.messages]
            told = tuple(answer for answer in answers if answer is not None)
            if told:
                send_frames(link, encode(Envelope(envelope.gateway, told)))
        link.close()
        context.term()

    def end(self) -> None:
        """Leave soon."""
        self._ended.set()

    def _answer(self, message: Message) -> Message | None:
        match message:
            case Probe(known):
                return Load(0, 0, ROW_US) if known else self._hello()
            case Request() if self.refusing.is_set():
                return Nack(message.attempt_id, NackReason.FULL)
            case Request():
                (x,) = message.inputs
                y = tensor_from_array("y", array_from_tensor(x) * np.float32(self._scale))
                return Final(message.attempt_id, (y,), None, 0, ROW_US, x.shape[0])
            case _:
                return None

    def _hello(self) -> Hello:
        version = VersionRoute(version="1", revision="m/1")
        route = ModelRoute(model="m", generation=1, versions=(version,))
        return Hello(
            replica=self._name,
            worker="w",
            model="m",
            version="1",
            revision="m/1",
            interface=self._interface.model_dump_json().encode(),
            route=route.model_dump_json().encode(),
        )


@contextmanager
def refusing_peers(
    endpoint: str, count: int, interface: ModelInterface, scale: float
) -> Iterator[list[RefusingPeer]]:
    """So many of them, each in its thread; they answer at first."""
    peers = [RefusingPeer(endpoint, f"peer-{n}", interface, scale) for n in range(count)]
    threads = [threading.Thread(target=peer.run, daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        yield peers
    finally:
        for peer in peers:
            peer.end()
        for thread in threads:
            thread.join()

"""How a replica dials gateways: one DEALER for each.

Replicas dial out and listen to nobody, so a worker needs no port that is open. A connection that
breaks is made anew by libzmq, for as long as the gateway is among those that the agent names; but
not one that was refused (a key that the gateway does not know, or no longer; a gateway that has no
keys yet). Gateways speak ten times a second, so a silent link is dialled again from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import zmq

from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.wire.curve import WorkerKeys, dial_with_keys
from penstock.shared.wire.frames import has_unread, receive_frames
from penstock.shared.wire.sockets import replica_socket
from penstock.shared.wire.tensors import Buffer
from penstock.worker.control.messages import GatewayAddress

REDIAL_S = 5.0
"""Silence of a gateway after which it is dialled with a new socket."""

FAREWELL_LINGER_MS = 2000
"""Longest that the last answers may take to leave."""


@dataclass
class _Link:
    address: GatewayAddress
    socket: zmq.Socket[bytes]
    heard_at: float


class Links:
    """The connections of one replica, by gateway; they belong to its loop.

    Args:
        poller: learns of every socket.
        identity: of the replica.

    Attributes:
        keys: by which it proves itself over tcp; None: it has none.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], poller: zmq.Poller, identity: ReplicaId
    ) -> None:
        self.keys: WorkerKeys | None = None
        self._context = context
        self._poller = poller
        self._identity = identity
        self._links: dict[str, _Link] = {}

    def follow(self, addresses: Iterable[GatewayAddress], now: float) -> list[str]:
        """Dial the gateways that are new, leave those that are gone; the names of the latter."""
        wanted = {address.gateway: address for address in addresses}
        left = [name for name, link in self._links.items() if wanted.get(name) != link.address]
        for name in left:
            self._hang_up(self._links.pop(name))
        for name, address in wanted.items():
            if name not in self._links:
                self._links[name] = self._dial(address, now)
        return left

    def readable(
        self, ready: Mapping[object, int], now: float
    ) -> list[tuple[str, zmq.Socket[bytes]]]:
        """The links that have something to read, by what the poller said."""
        found = []
        for name, link in self._links.items():
            if link.socket in ready:
                link.heard_at = now
                found.append((name, link.socket))
        return found

    def socket(self, name: str) -> zmq.Socket[bytes] | None:
        """The way to a gateway, if it is followed."""
        link = self._links.get(name)
        return link.socket if link is not None else None

    def redial_silent(self, now: float) -> None:
        """Dial again whom we have not heard for long."""
        for name, link in self._links.items():
            # What came while the model held the interpreter is not silence.
            if now - link.heard_at >= REDIAL_S and not has_unread(link.socket):
                self._hang_up(link)
                self._links[name] = self._dial(link.address, now)

    def close(self) -> None:
        """Leave all gateways, once the last answers have left."""
        for link in self._links.values():
            self._hang_up(link)
        self._links.clear()

    def _dial(self, address: GatewayAddress, now: float) -> _Link:
        socket = dial(self._context, self._identity, address.endpoint, self.keys)
        self._poller.register(socket, zmq.POLLIN)
        return _Link(address, socket, now)

    def _hang_up(self, link: _Link) -> None:
        self._poller.unregister(link.socket)
        link.socket.close(linger=FAREWELL_LINGER_MS)


def receive(link: zmq.Socket[bytes]) -> list[Buffer]:
    """The frames of the next message, not copied; none if there is no message after all."""
    try:
        return receive_frames(link)
    except zmq.Again:  # the connection broke just now
        return []


def dial(
    context: zmq.Context[zmq.Socket[bytes]],
    identity: ReplicaId,
    endpoint: str,
    keys: WorkerKeys | None,
) -> zmq.Socket[bytes]:
    """A socket that connects to a gateway's endpoint, and stays connected.

    With keys, a tcp endpoint is never dialled without them: nobody can talk us into that. A Unix
    socket has its folder's permissions instead.
    """
    link = replica_socket(context, endpoint, identity)
    if keys is not None and endpoint.startswith("tcp://"):
        dial_with_keys(link, keys)
    link.connect(endpoint)
    return link

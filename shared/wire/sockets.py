"""The sockets between gateways and replicas, and every option of them with its reason.

A gateway binds one ROUTER, which knows each replica by its identity; a replica dials each gateway
with a DEALER of its own. Keys are put on by `penstock.shared.wire.curve`.
"""

from __future__ import annotations

import zmq

from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.wire.codec import SHARED_BYTES_MIN

HIGH_WATER = 10_000
"""Envelopes that may wait in one direction of one connection; a peer that is further behind does
not read, and must cost no more memory."""

HEARTBEAT_MS = 500
SILENCE_MS_MAX = 2000
"""Silence of the peer's process after which its connection is closed; TCP would take minutes."""

HANDSHAKE_MS_MAX = 5000
"""Longest handshake; who connects and says nothing holds a descriptor no longer than that."""

RECONNECT_MS = 50
RECONNECT_MS_MAX = 1000
"""Wait before a connection that broke is made anew: the first one, and the longest."""

CONNECT_MS_MAX = 2000
"""After a network's outage the kernel may wait long before it asks again; we do not."""


def gateway_socket(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """A ROUTER that is yet to be bound to the endpoint."""
    router = _socket(context, zmq.ROUTER, endpoint)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending tells that a replica is gone
    router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a peer that reconnects replaces its old connection
    router.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS_MAX)
    return router


def replica_socket(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, identity: ReplicaId
) -> zmq.Socket[bytes]:
    """A DEALER that is yet to be connected to the endpoint."""
    dealer = _socket(context, zmq.DEALER, endpoint)
    dealer.setsockopt(zmq.IDENTITY, identity.encode())
    dealer.setsockopt(zmq.IMMEDIATE, 1)  # nothing waits for a gateway that is not connected
    dealer.setsockopt(zmq.PROBE_ROUTER, 1)  # the gateway hears of us at once
    dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
    dealer.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS_MAX)
    return dealer


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(kind)
    socket.copy_threshold = SHARED_BYTES_MIN  # smaller frames are copied: that is quicker
    socket.setsockopt(zmq.LINGER, 0)  # only who says so waits at the end
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS_MAX)
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))  # it would not take one in brackets
    return socket

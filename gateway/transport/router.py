"""The gateway's ROUTER socket: envelopes to and from every connected replica.

Replicas dial in and are known by their identity, which is their incarnation. Messages for a replica
are gathered during one turn of the event loop and leave as one envelope. The socket is read when
its file descriptor says so; ZeroMQ signals *edges*, so it is read until it is empty, and looked at
again after sending. To look costs two calls of the kernel.

A replica that went away is found by sending to it: ROUTER_MANDATORY makes that fail with
EHOSTUNREACH. So all are sent a probe when any connection has ended
(`penstock.gateway.transport.departures`), and every `PROBE_INTERVAL_S`; between hosts, ZMTP's
heartbeats close a dead connection first. A replica that connects anew while we still held its old
connection (ROUTER_HANDOVER) is taken for lost and introduced again: what was on the old connection
is gone, in both directions, and nothing else would say so.

Previous stop of a request: `penstock.gateway.dispatch.dispatch`. Next:
`penstock.worker.replica.loop`, over `penstock.shared.wire.codec`.
"""

from __future__ import annotations

import asyncio
import contextlib
import stat
import time
from pathlib import Path
from typing import Final, Protocol

import zmq

from penstock.gateway.transport.departures import Departures
from penstock.gateway.transport.doorkeeper import Doorkeeper
from penstock.shared.contracts.errors import ErrorCode, PenstockError, WireError
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.codec import copied_on_send, decode, envelopes
from penstock.shared.wire.curve import GatewayKeys, serve_with_keys
from penstock.shared.wire.frames import (
    NOBLOCK,
    SNDMORE_NOBLOCK,
    has_unread,
    receive_frames,
    send_frames,
)
from penstock.shared.wire.messages import Message, Probe, Request
from penstock.shared.wire.sockets import gateway_socket
from penstock.shared.wire.tensors import Buffer

log = get_logger("transport")

ENVELOPE_MESSAGES: Final = 32
"""Messages that leave without waiting for the end of the turn: a replica works on the first ones
while we read the next. Fewer would cost more processor time than they save waiting."""

ENVELOPES_PER_TURN = 128
"""Envelopes taken in one go before the event loop's other work gets its turn."""

PROBE_INTERVAL_S = 0.1
"""How often each replica is asked for its load, and found lost if it is."""

FAREWELL_READ_S = 0.1
"""What replicas get to read the last messages before the connection ends: what a DEALER with
IMMEDIATE has received and not read by then is dropped (libzmq terminates its pipe at once)."""

ZAP_DOMAIN = "penstock"

WILDCARDS = frozenset({"*", "0.0.0.0", "::", "[::]"})
"""Hosts that bind every address of a machine, and that nobody can dial."""

IPC_PATH_BYTES_MAX = 107
"""Longest path of a Unix socket that Linux takes."""


class Receiver(Protocol):
    """Who is told what comes in."""

    def message_received(self, replica_id: str, message: Message) -> None:
        """A message of a replica."""
        ...

    def knows(self, replica_id: str) -> bool:
        """Whether the replica has introduced itself, and was not lost since."""
        ...

    def messages_done(self) -> None:
        """All messages that were there have been told."""
        ...

    def not_sent(self, replica_id: str, request: Request) -> None:
        """A request could not be sent, because the way to the replica is full."""
        ...

    def not_encoded(self, replica_id: str, request: Request) -> None:
        """A request cannot be sent to any replica, because it cannot be encoded."""
        ...

    def replica_lost(self, replica_id: str) -> None:
        """The replica is no longer connected."""
        ...


class UnreachableError(Exception):
    """A replica is no longer connected."""


class UnencodableError(Exception):
    """A message among some cannot be encoded; none of them was sent."""


class EndpointError(PenstockError):
    """An endpoint that must not, or cannot, be bound."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_INPUT, message)


def check_endpoint(
    endpoint: str, *, secured: bool, insecure_tcp: bool, advertise_address: str = ""
) -> None:
    """Refuse endpoints that cannot work or would be open to anyone.

    Args:
        secured: the gateway has keys.
        insecure_tcp: the network is trusted.
        advertise_address: see `advertised_endpoint`.

    Raises:
        EndpointError: saying what is wrong and what would be right.
    """
    scheme, _, address = endpoint.partition("://")
    if scheme == "ipc":
        if len(address.encode()) > IPC_PATH_BYTES_MAX:
            raise EndpointError(
                f"endpoint {endpoint}: a Unix socket's path has at most {IPC_PATH_BYTES_MAX} "
                f"bytes, this one has {len(address.encode())}"
            )
        if advertise_address:
            raise EndpointError(
                "--advertise-address is for workers on other hosts, which cannot dial the Unix "
                f"socket {endpoint}; add --endpoint tcp://HOST:PORT"
            )
    elif scheme == "tcp":
        if not (secured or insecure_tcp):
            raise EndpointError(
                f"endpoint {endpoint}: tcp is open to everyone who can reach it; make keys with "
                "`penstock keys DIR` and name them with --keys-dir (PENSTOCK_KEYS_DIR), or, on a "
                "network that you trust, say so with --insecure-tcp (PENSTOCK_INSECURE_TCP=true)"
            )
        if address.rpartition(":")[0] in WILDCARDS and not advertise_address:
            raise EndpointError(
                f"endpoint {endpoint}: workers cannot dial a wildcard; say by which address they "
                "reach this host with --advertise-address (PENSTOCK_ADVERTISE_ADDRESS)"
            )
    else:
        raise EndpointError(f"endpoint {endpoint}: expected ipc://PATH or tcp://HOST:PORT")


def advertised_endpoint(bound: str, advertise_address: str) -> str:
    """The endpoint that replicas are to dial.

    Args:
        bound: the endpoint as bound, with its real port.
        advertise_address: HOST, with the bound port, or HOST:PORT; empty for `bound` itself.
    """
    if not advertise_address:
        return bound
    host, colon, port = advertise_address.rpartition(":")
    if colon and port.isdigit() and (":" not in host or host.startswith("[")):
        return f"tcp://{advertise_address}"
    is_bare_ipv6 = ":" in advertise_address and not advertise_address.startswith("[")
    host = f"[{advertise_address}]" if is_bare_ipv6 else advertise_address
    return f"tcp://{host}:{bound.rpartition(':')[2]}"


class Transport:
    """See the module's docstring.

    Args:
        endpoint: where replicas dial in.
        incarnation: this life of this gateway; answers to an earlier one are dropped.
        receiver: who is told what comes in.
        keys: make a tcp endpoint one that admits only the workers' keys.

    Attributes:
        copied_bytes: of messages in both directions; large tensors are not copied.
    """

    def __init__(
        self, endpoint: str, incarnation: str, receiver: Receiver, keys: GatewayKeys | None = None
    ) -> None:
        self._endpoint = endpoint
        self._incarnation = incarnation
        self._receiver = receiver
        self._keys = keys
        self._context = zmq.Context()
        self._doorkeeper: Doorkeeper | None = None
        self._departures: Departures | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._outbox: dict[str, list[Message]] = {}
        self._peers: set[str] = set()
        self._flush_scheduled = False
        self._read_scheduled = False
        self.copied_bytes = 0

    def __repr__(self) -> str:
        return f"<Transport {self._endpoint}, {len(self._peers)} peers>"

    @property
    def endpoint(self) -> str:
        """The endpoint as bound, with the port that was chosen if it asked for any."""
        assert self._socket is not None
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def bind(self) -> None:
        """Open the socket and read it from now on, in the running event loop.

        Raises:
            EndpointError: if the endpoint is taken or cannot be bound.
        """
        router = gateway_socket(self._context, self._endpoint)
        if self._endpoint.startswith("ipc://"):
            _prepare_folder(Path(self._endpoint.removeprefix("ipc://")).parent)
        elif self._keys is not None:
            serve_with_keys(router, self._keys, ZAP_DOMAIN)
            self._doorkeeper = Doorkeeper(self._context, self._keys.admitted)
            self._doorkeeper.open()
        self._departures = Departures(router, self._probe_all)
        self._departures.open()
        try:
            router.bind(self._endpoint)
        except zmq.ZMQError as error:
            raise EndpointError(f"cannot bind {self._endpoint}: {error}") from error
        self._socket = router
        loop = asyncio.get_running_loop()
        loop.add_reader(_fd(router), self._read)
        loop.call_soon(self._read)

    async def probe_forever(self) -> None:
        """Ask every replica for its load, again and again."""
        while True:
            self._probe_all()
            await asyncio.sleep(PROBE_INTERVAL_S)

    def send(self, replica_id: str, message: Message) -> None:
        """Send a message with the others of this turn of the loop, or the next few of them."""
        pending = self._outbox.get(replica_id)
        if pending is None:
            self._outbox[replica_id] = [message]
        else:
            pending.append(message)
            # Tried once: if the way is full, what is added waits for the turn's end with the rest.
            if len(pending) == ENVELOPE_MESSAGES and self._sent(replica_id, pending):
                del self._outbox[replica_id]
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self, linger_ms: int) -> None:
        """Send what is pending, for at most `linger_ms`, and close the socket."""
        if self._socket is None:
            return
        self._flush()
        asyncio.get_running_loop().remove_reader(_fd(self._socket))
        if self._peers:
            time.sleep(FAREWELL_READ_S)  # at the very end: nobody is kept waiting
        if self._departures is not None:
            self._departures.close()
        self._socket.close(linger=linger_ms)
        self._socket = None
        if self._doorkeeper is not None:
            self._doorkeeper.close()
        self._context.term()
        if self._endpoint.startswith("ipc://"):
            with contextlib.suppress(OSError):
                Path(self._endpoint.removeprefix("ipc://")).unlink()

    def _probe_all(self) -> None:
        for replica_id in self._peers:
            self.send(replica_id, Probe(self._receiver.knows(replica_id)))

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._socket is None:
            return
        outbox, self._outbox = self._outbox, {}
        for replica_id, messages in outbox.items():
            self._flush_to(self._socket, replica_id, messages)
        self._look_again(self._socket)

    def _flush_to(
        self, router: zmq.Socket[bytes], replica_id: str, messages: list[Message]
    ) -> None:
        try:
            self._send_messages(router, replica_id, messages)
        except zmq.Again:
            self._keep(replica_id, messages)
            for message in messages:
                if isinstance(message, Request):
                    self._receiver.not_sent(replica_id, message)
        except UnreachableError:
            self._peers.discard(replica_id)
            self._receiver.replica_lost(replica_id)
        except UnencodableError as error:
            if len(messages) > 1:  # only the one that is at fault may be lost
                for message in messages:
                    self._flush_to(router, replica_id, [message])
                return
            kind = type(messages[0]).__name__
            log.error("a message cannot be encoded", kind=kind, reason=repr(error.__cause__))
            if isinstance(messages[0], Request):
                self._receiver.not_encoded(replica_id, messages[0])

    def _keep(self, replica_id: str, messages: list[Message]) -> None:
        """Have what nobody would say again leave with the next flush, at the next probe at latest.

        That is what ends or begins something there: at most a few messages for each request that
        was sent, and none is sent to a replica that is silent.
        """
        kept = [message for message in messages if not isinstance(message, Request | Probe)]
        if kept:
            self._outbox[replica_id] = [*kept, *self._outbox.get(replica_id, ())]

    def _sent(self, replica_id: str, messages: list[Message]) -> bool:
        """Send messages before the turn ends; if that fails, its end is the time to say so."""
        if self._socket is None:
            return False
        try:
            self._send_messages(self._socket, replica_id, messages)
        except (zmq.Again, UnreachableError, UnencodableError):
            return False
        return True

    def _send_messages(
        self, router: zmq.Socket[bytes], replica_id: str, messages: list[Message]
    ) -> None:
        """Send messages; if there is no way for some of many, those are what is left of the list.

        Raises:
            zmq.Again: if the way is full.
            UnreachableError: if there is none.
            UnencodableError: if one of them is no message that can be told.
        """
        try:
            parts = envelopes(self._incarnation, messages)
        except Exception as fault:  # whatever it is, it is the message's
            raise UnencodableError from fault
        for part, frames in parts:
            try:
                router.send(replica_id.encode(), SNDMORE_NOBLOCK)  # only this can fail
                send_frames(router, frames)
                self.copied_bytes += copied_on_send(frames)
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                raise UnreachableError from error
            if len(parts) > 1:
                del messages[: len(part)]

    def _look_again(self, router: zmq.Socket[bytes]) -> None:
        """After sending, which may have taken the signal of what came meanwhile."""
        if not self._read_scheduled and has_unread(router):
            self._read_soon()

    def _read_soon(self) -> None:
        self._read_scheduled = True
        asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        """Read until nothing is left: only then is what comes next signalled anew."""
        self._read_scheduled = False
        router = self._socket
        if router is None:
            return
        told = False
        for _ in range(ENVELOPES_PER_TURN):
            if not has_unread(router):
                break
            try:
                identity = router.recv(NOBLOCK)
            except zmq.Again:  # the connection broke just now
                continue
            self._received(identity, receive_frames(router))
            told = True
        else:
            self._read_soon()
        if told:
            self._receiver.messages_done()

    def _received(self, identity: bytes, frames: list[Buffer]) -> None:
        replica_id = identity.decode(errors="replace")
        connected = len(frames) == 1 and not len(frames[0])  # libzmq's own greeting
        if connected and replica_id in self._peers:
            self._receiver.replica_lost(replica_id)  # it dialled anew: see the module's docstring
        if connected or replica_id not in self._peers:
            self._peers.add(replica_id)
            self.send(replica_id, Probe(self._receiver.knows(replica_id)))
        if connected:
            return
        try:
            envelope = decode(frames)
        except WireError as error:
            log.warning("dropped an envelope", replica=replica_id, reason=error.message)
            return
        self.copied_bytes += len(frames[0])
        if envelope.gateway != self._incarnation:
            return  # answers to an earlier life of this gateway
        for message in envelope.messages:
            self._receiver.message_received(replica_id, message)


def _prepare_folder(folder: Path) -> None:
    """Make the folder of a Unix socket, or refuse one in which anyone could put another socket.

    Raises:
        EndpointError: if it cannot be made, or others may write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        writable_by_all = bool(folder.stat().st_mode & stat.S_IWOTH)
    except OSError as error:
        raise EndpointError(f"cannot make the folder of the endpoint: {error}") from error
    if writable_by_all:
        raise EndpointError(
            f"{folder} is writable by everyone: an endpoint there could be taken over; "
            "choose a folder that is not"
        )


def _fd(router: zmq.Socket[bytes]) -> int:
    """The descriptor that becomes readable when ZeroMQ has something to say about the socket."""
    return int(router.getsockopt(zmq.FD))

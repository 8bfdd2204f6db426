"""Keys of CURVE, ZeroMQ's authenticated encryption, and the folder in which they lie.

    gateway.secret     gateways only        worker.secret      workers only
    gateway.public     workers (and gateways)
    worker*.public     gateways: every key here is admitted, so that keys can be rotated

Both sides prove themselves: a gateway admits the workers whose public keys it has, a worker talks
only to who has the gateway's secret key. Files hold one key as Z85 text (40 characters). No secret
is ever part of a `repr`, a log line, a command line or an environment variable; paths are.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from zmq.utils import z85

from penstock.shared.contracts.errors import ErrorCode, PenstockError

GATEWAY_SECRET = "gateway.secret"
GATEWAY_PUBLIC = "gateway.public"
WORKER_SECRET = "worker.secret"
WORKER_PUBLIC = "worker.public"
ADMITTED_WORKERS = "worker*.public"

KEY_CHARACTERS = 40


class KeysError(PenstockError):
    """A folder of keys that cannot be used as it is."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_INPUT, message)


@dataclass(frozen=True)
class GatewayKeys:
    """What a gateway needs: its secret key, and the public keys that it admits (32 bytes each)."""

    secret: bytes = field(repr=False)
    admitted: frozenset[bytes]


@dataclass(frozen=True)
class WorkerKeys:
    """What a worker needs: its secret key, and the public key of its gateways."""

    secret: bytes = field(repr=False)
    gateway: bytes


def read_gateway_keys(folder: Path) -> GatewayKeys:
    """The keys of a gateway.

    Raises:
        KeysError: naming the file that is missing, malformed or readable by everyone.
    """
    admitted = frozenset(
        z85.decode(_read_key(path)) for path in sorted(folder.glob(ADMITTED_WORKERS))
    )
    secret = _read_secret(folder / GATEWAY_SECRET)
    if not admitted:
        raise KeysError(f"{folder} holds no {ADMITTED_WORKERS}: no worker could connect")
    return GatewayKeys(secret, admitted)


def read_worker_keys(folder: Path) -> WorkerKeys:
    """The keys of a worker.

    Raises:
        KeysError: naming the file that is missing, malformed or readable by everyone.
    """
    return WorkerKeys(_read_secret(folder / WORKER_SECRET), _read_key(folder / GATEWAY_PUBLIC))


def serve_with_keys(router: zmq.Socket[bytes], keys: GatewayKeys, domain: str) -> None:
    """Make a socket that is to be bound a CURVE server; refuse all that ZAP did not admit."""
    router.setsockopt(zmq.CURVE_SERVER, 1)
    router.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    router.setsockopt_string(zmq.ZAP_DOMAIN, domain)
    router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def dial_with_keys(link: zmq.Socket[bytes], keys: WorkerKeys) -> None:
    """Make a socket that is to be connected a CURVE client."""
    link.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    link.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(keys.secret))
    link.setsockopt(zmq.CURVE_SERVERKEY, keys.gateway)


def _read_secret(path: Path) -> bytes:
    key = _read_key(path)
    if path.stat().st_mode & stat.S_IRWXO:
        raise KeysError(f"{path} is open to everyone on this machine: chmod 600 {path}")
    return key


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise KeysError(f"cannot read the key {path}: {error.strerror}") from error
    try:
        valid = len(key) == KEY_CHARACTERS and len(z85.decode(key)) == 32
    except (KeyError, ValueError, struct.error):
        valid = False
    if not valid:
        raise KeysError(f"{path} is no key: expected {KEY_CHARACTERS} characters of Z85")
    return key

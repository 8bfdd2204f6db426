"""Names of things: who sent a message, which call, which process life."""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import TypeAlias

ReplicaId: TypeAlias = str
"""Names one life of a replica, never used again: gateways know its socket by it (`identity`), the
job store its leases (`holder`), reports and logs the process (`replica`)."""

MODEL_NAME_LENGTH_MAX = 256
"""Longest name that MLflow's database takes."""

_NO_NAME = re.compile(r"\s*|\.{1,2}|.*[/:].*", re.DOTALL)
"""What neither a path segment of a URL, percent-encoded, nor MLflow takes for a name."""


def is_model_name(text: str) -> bool:
    """Whether a model may have such a name: all that MLflow accepts, percent-encoded in URLs."""
    return len(text) <= MODEL_NAME_LENGTH_MAX and not _NO_NAME.fullmatch(text)


def new_incarnation(prefix: str) -> str:
    """An id of one life of one process, never used again: `prefix-<12 hex digits>`."""
    return f"{prefix}-{secrets.token_hex(6)}"


class _RequestIds:
    """Hands out random digits that were drawn in advance: to draw costs a call of the kernel."""

    DIGITS = 32
    POOLED = 256

    def __init__(self) -> None:
        self._pool: list[str] = []

    def next(self) -> str:
        if not self._pool:
            digits = secrets.token_hex(self.POOLED * self.DIGITS // 2)
            starts = range(0, len(digits), self.DIGITS)
            self._pool = [digits[start : start + self.DIGITS] for start in starts]
        return self._pool.pop()


_request_ids = _RequestIds()


def new_request_id() -> str:
    """A fresh id for a request whose client gave none: 32 hex digits."""
    return _request_ids.next()


def new_system_id() -> str:
    """A fresh id of a system: 12 hex digits, as it stands in tags."""
    return secrets.token_hex(6)


def node_name() -> str:
    """The name of this machine, for reports to operators."""
    return os.environ.get("PENSTOCK_NODE_NAME") or socket.gethostname()

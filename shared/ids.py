"""Names of things: who sent a message, which call, which process life."""

from __future__ import annotations

import os
import re
import secrets
import socket

MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]{0,254}")
"""Names a model may have in a URL path segment; MLflow allows more, which we report as invalid."""


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


def node_name() -> str:
    """The name of this machine, for reports to operators."""
    return os.environ.get("PENSTOCK_NODE_NAME") or socket.gethostname()

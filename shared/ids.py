"""Names of things: who sent a message, which call, which process life."""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Callable

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


class JobIds:
    """Makes ids that sort by when they were made: to the millisecond, and in one process exactly.

    12 hex digits of milliseconds since 1970 (enough until the year 10889), then 20 of chance.
    """

    CHANCE_BITS = 80

    def __init__(self, wall_s: Callable[[], float] = time.time) -> None:
        self._wall_s = wall_s
        self._last = 0

    def next(self) -> str:
        """A fresh id; higher than the one before, also if the clock was set back."""
        drawn = int(self._wall_s() * 1000) << self.CHANCE_BITS | secrets.randbits(self.CHANCE_BITS)
        self._last = drawn if drawn > self._last else self._last + 1
        return f"{self._last:032x}"


_job_ids = JobIds()


def new_job_id() -> str:
    """A fresh id for a job: 32 hex digits that sort by time."""
    return _job_ids.next()


def node_name() -> str:
    """The name of this machine, for reports to operators."""
    return os.environ.get("PENSTOCK_NODE_NAME") or socket.gethostname()

"""Ids of jobs, which sort by time: listings and queues rely on it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable


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


_ID = re.compile(r"[0-9a-f]{32}")


def is_job_id(text: str) -> bool:
    """Whether a text has the form of an id."""
    return _ID.fullmatch(text) is not None


def made_ms(job_id: str) -> int:
    """When an id was made, in milliseconds since 1970, on its maker's clock."""
    return int(job_id, 16) >> JobIds.CHANCE_BITS

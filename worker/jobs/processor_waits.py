"""How long a thread has waited for a processor, as Linux tells it."""

from __future__ import annotations

import os
from contextlib import suppress

PATH = "/proc/thread-self/schedstat"
"""Nanoseconds on a processor, nanoseconds ready to run without one, and how often it got one."""


class ProcessorWaits:
    """Of the thread that makes this."""

    def __init__(self) -> None:
        self._file: int | None = None
        with suppress(OSError):  # a kernel without it: nothing is known to be short
            self._file = os.open(PATH, os.O_RDONLY | os.O_CLOEXEC)

    def seconds(self) -> float:
        """How long in all, until now; 0 where the kernel does not tell."""
        if self._file is None:
            return 0.0
        return int(os.pread(self._file, 128, 0).split()[1]) / 1e9

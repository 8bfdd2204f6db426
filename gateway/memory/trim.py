"""Memory that large bodies and answers took goes back to the system.

The C library keeps what is freed between smaller things that are still in use, and would keep
hundreds of megabytes after one large answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import time

TRIM_AFTER_S = 1.0
"""How long after a large body or answer: those that follow at once need the memory again."""


LARGE_BYTES = 1024 * 1024
"""Blocks from this size on are memory of their own, which goes back as soon as they are freed. If
it is not told, the C library raises this by itself up to 32 MiB, once such blocks come and go."""

TOP_BYTES_MAX = 16 * 1024 * 1024
"""Most that is kept free at the heap's end. What is told of one bound freezes the other at 128 KiB,
and the heap would grow and shrink all the time."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _library() -> ctypes.CDLL | None:
    """The C library, if it is glibc."""
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim") and hasattr(library, "mallopt"):
            return library
    return None


_glibc = _library()


def keep_little() -> None:
    """Have large blocks go back by themselves; called at a process's start."""
    if _glibc is not None:
        _glibc.mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        _glibc.mallopt(_M_TRIM_THRESHOLD, TOP_BYTES_MAX)


def trim() -> None:
    """Give back what is free; lets go of the interpreter meanwhile."""
    if _glibc is not None:
        _glibc.malloc_trim(0)


_due_s = 0.0


def trim_soon() -> None:
    """Do so in a thread, once for all that ask within a while; called on the loop."""
    global _due_s
    loop = asyncio.get_running_loop()
    now_s = time.monotonic()
    if now_s >= _due_s:
        _due_s = now_s + TRIM_AFTER_S
        loop.call_later(TRIM_AFTER_S, loop.run_in_executor, None, trim)

"""Memory that large bodies and answers took goes back to the system.

The C library keeps what is freed between smaller things that are still in use, and would keep
hundreds of megabytes after one large answer.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

TRIM_AFTER_S = 1.0
"""How long after a large body or answer: those that follow at once need the memory again."""


def _found() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None  # another C library than glibc
    return trim


_trim = _found()
_is_due = False


def trim() -> None:
    """Give back what is free; lets go of the interpreter meanwhile."""
    if _trim is not None:
        _trim(0)


def trim_soon() -> None:
    """Do so in a thread, once for all that ask within a while; called on the loop."""
    global _is_due
    if not _is_due:
        _is_due = True
        asyncio.get_running_loop().call_later(TRIM_AFTER_S, _trim_now)


def _trim_now() -> None:
    global _is_due
    _is_due = False
    asyncio.get_running_loop().run_in_executor(None, trim)

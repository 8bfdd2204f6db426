"""A timer of the kernel that an event loop can wait for, precise to microseconds.

The timers of asyncio and uvloop wake at whole milliseconds, which is more than a fast answer takes.
`os.timerfd_create` came with Python 3.13 only, so this calls the C library.
"""

from __future__ import annotations

import ctypes
import os
import time

_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_SOON_NS = 1
"""An absolute time of zero would disarm the timer."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class PreciseTimer:
    """Readable at `descriptor` when the time has come that was set last."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        flags = _TFD_NONBLOCK | _TFD_CLOEXEC
        self.descriptor: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, flags)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, at: float) -> None:
        """Wake at a time of `time.monotonic`; one that has passed wakes at once."""
        at_ns = max(int(at * 1e9), _SOON_NS)
        value = _Timespec(at_ns // 10**9, at_ns % 10**9)
        spec = _Itimerspec(_Timespec(0, 0), value)
        if self._libc.timerfd_settime(
            self.descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None
        ):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def acknowledge(self) -> None:
        """After it woke: it is not readable any more."""
        try:
            os.read(self.descriptor, 8)
        except BlockingIOError:
            return

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

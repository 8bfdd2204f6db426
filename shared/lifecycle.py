"""Ties between a process and the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT_PID_ENV = "PENSTOCK_PARENT_PID"
"""Set by our launchers for children that must not outlive them."""

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Have the kernel send `signum` to this process when its parent's spawning thread ends.

    Does nothing unless the parent asked for it by `PENSTOCK_PARENT_PID`, or outside Linux. A
    parent that died before the request took effect is noticed, and ends this process.
    """
    parent = os.environ.get(PARENT_PID_ENV)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)
    if os.getppid() != int(parent):
        os._exit(1)


def environment_of_child() -> dict[str, str]:
    """This process's environment for a child that calls `die_with_parent`."""
    return {**os.environ, PARENT_PID_ENV: str(os.getpid())}

"""Ties between a process and the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

PARENT_PID_ENV = "PENSTOCK_PARENT_PID"
"""Set by our launchers for children that must not outlive them."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


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


def adopt_orphans() -> None:
    """Have descendants whose parents end become children of this process, and not of `init`.

    So they stay to be found by descent (`end_orphans`), whatever session they made for themselves.
    Linux only.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_orphans(known: Collection[int]) -> int:
    """Kill the children of this process that it adopted; returns how many have not ended yet.

    What these have started comes to us in turn, so ask until there are none. Adopted are those of
    another session than ours that are not `known`: a child of ours may only be in another session
    if it is known here, or was started by one that is.
    """
    ours, left = os.getsid(0), 0
    for pid, parent, session in _processes():
        if parent != os.getpid() or session == ours or pid in known:
            continue
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            left += os.waitpid(pid, os.WNOHANG)[0] == 0
    return left


def _processes() -> list[tuple[int, int, int]]:
    """All processes that can be seen: pid, parent and session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):  # it ended meanwhile
            # The name, in parentheses, may hold anything.
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            found.append((int(entry.name), int(fields[1]), int(fields[3])))
    return found

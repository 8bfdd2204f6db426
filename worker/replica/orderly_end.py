"""The orderly end of a replica: what its model registered for the end runs, and files are finished.

Python ends a process in an order that code relies on: it waits for threads that are not daemons and
for what pools still have to do, runs what `atexit` was told, and finishes what is open. Here that
is bounded, since a model's threads must not hold up the end: whoever waits for threads for longer
than `THREADS_S` runs the functions without them, and at `END_S` the process ends.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from penstock.shared.process.telemetry import get_logger

log = get_logger("replica")

END_S = 4.0
"""Longest end. The agent sends SIGTERM 5 s after a replica said that it ends (`end_grace_s`)."""

THREADS_S = 2.0
"""Of this, how long threads and pools may take to finish."""

OWN_FILES = frozenset({"_io", "io", "socket", "tempfile"})
"""Modules whose files hold nothing back that a flush does not write."""


class OrderlyEnd:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._process = os.getpid()
        self._threads_are_done = threading.Event()

    def prepare(self) -> None:
        """Be the last to run at exit. Call it before the model's code registers anything."""
        atexit.register(self._finish)

    def begin(self, code: int, leave_main: Callable[[], None]) -> NoReturn:
        """End the process, on another thread than the main one.

        Args:
            leave_main: has the main thread return.
        """
        self._code = code
        atexit.register(self._threads_are_done.set)  # the last that is registered runs first
        leave_main()
        if self._threads_are_done.wait(THREADS_S):
            time.sleep(END_S - THREADS_S)
            log.warning("what the model registered for its end takes too long")
        else:
            log.warning("threads of the model go on: its end does not wait for them")
            run_exit_functions()
        finish_files()
        os._exit(code)

    def _finish(self) -> None:
        """All else has run. What libraries do at their own end is of no use, and may fail."""
        if self._code is not None and os.getpid() == self._process:  # no fork of the model's
            finish_files()
            os._exit(self._code)


def run_exit_functions() -> None:
    """Run what `atexit` was told, as Python does when threads are done."""
    try:
        atexit._run_exitfuncs()
    except BaseException as error:  # of a model's own code; it ends in any case
        log.warning("a function at exit failed", reason=repr(error))


def finish_files() -> None:
    """Write out what open files hold back."""
    gc.unfreeze()  # what is frozen is not listed
    files = [each for each in gc.get_objects() if issubclass(type(each), io.IOBase)]
    # Text first; then what is not Python's own, such as files that compress, whose last words come
    # when they are closed; then bytes.
    for each in files:
        if type(each) is io.TextIOWrapper:
            _quietly(each.flush)
    for each in files:
        if type(each).__module__ not in OWN_FILES:
            _quietly(each.close)
    for each in files:
        if type(each) in (io.BufferedWriter, io.BufferedRandom):
            _quietly(each.flush)


def _quietly(finish: Callable[[], object]) -> None:
    with suppress(Exception):
        finish()

"""Two threads that wait for hints of the job store: of new jobs, and of cancels.

Who found the queue empty says so (`listen`), and hears once when there may be something again.
Hints of cancels are always waited for.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

LOOK_S = 5.0
"""How long without a hint until the queue is looked at all the same: a hint may be lost."""


class WakeUp(Protocol):
    """Of `penstock.shared.jobs.blocking_store.BlockingWakeUp`, what is used here."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for a hint, or so long."""
        ...


class Hints:
    """See the module's docstring.

    Args:
        jobs, cancels: connections to the store, one for each thread.
        on_jobs, on_cancel: called by these threads; must not block.
    """

    def __init__(
        self,
        jobs: WakeUp,
        cancels: WakeUp,
        on_jobs: Callable[[], None],
        on_cancel: Callable[[], None],
    ) -> None:
        self._jobs = jobs
        self._cancels = cancels
        self._on_jobs = on_jobs
        self._on_cancel = on_cancel
        self._listen: queue.SimpleQueue[None] = queue.SimpleQueue()

    def start(self) -> None:
        """Start the threads; they end with the process."""
        threading.Thread(target=self._hear_jobs, name="job-hints", daemon=True).start()
        threading.Thread(target=self._hear_cancels, name="job-cancels", daemon=True).start()

    def listen(self) -> None:
        """There was nothing to lease: say when there may be something. Any thread may call this."""
        self._listen.put(None)

    def _hear_jobs(self) -> None:
        while True:
            self._listen.get()
            self._jobs.wait(LOOK_S)
            self._on_jobs()

    def _hear_cancels(self) -> None:
        while True:
            if self._cancels.wait(LOOK_S):
                self._on_cancel()

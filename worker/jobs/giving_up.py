"""When a replica ends because of an execution that nobody wants any more. Pure.

Theory. What computes cannot be interrupted, so the only way to stop it is to end its process. That
costs a load of the model, so it gets a grace to end by itself; and it harms others, so it is done
only where nobody else has anything running or waiting there but jobs that have not begun, which are
given back and cost nothing by that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.worker.job_line.messages import JOBS
from penstock.worker.jobs.queue import JobItem
from penstock.worker.session.batching import Item, Key


class GivingUp:
    """See the module's docstring.

    Args:
        grace_s: how long an execution may go on when none of its jobs is wanted any more.
        owed: the keys of all that the replica owes an answer, now and later.
    """

    def __init__(self, grace_s: float, owed: Mapping[Key, Item]) -> None:
        self._grace_s = grace_s
        self._owed = owed
        self._at: float | None = None

    def gone(self, running: Sequence[Item], now: float) -> None:
        """A job of those that run is wanted no more."""
        if self._at is None and all(isinstance(item, JobItem) and item.gone for item in running):
            self._at = now + self._grace_s

    def over(self) -> None:
        """The execution has ended."""
        self._at = None

    def due(self) -> float | None:
        """When the replica is to end if nothing changes in what it owes; None: not for this."""
        if self._at is None or any(link != JOBS for link, _ in self._owed):
            return None
        return self._at

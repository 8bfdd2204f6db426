"""When a replica that drains may end. Pure.

It ends when it owes no answer, but not before `FAREWELL_S`: what gateways have sent meanwhile is to
be refused, not lost. Where it is to be ended by force at some time, jobs that still run shortly
before that are left alone: they are given back, and begin anew elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf

from penstock.worker.job_line.messages import JOBS
from penstock.worker.session.batching import Key

FAREWELL_S = 0.25
"""How long a replica that has nothing left to do stays after it said that it drains: a gateway that
is busy reads that, and what it sent before arrives, within some turns of its loop."""

GIVE_BACK_S = 1.0
"""How long before its end a replica gives back a job that still runs."""


class Draining:
    """See the module's docstring.

    Args:
        now: when it began.
        told: whether there is any gateway that was told.
        grace_s: how long until it is ended by force; None: it will not be.
        replace: whether it only makes room for another of its kind.
    """

    def __init__(
        self, now: float, *, told: bool, grace_s: float | None, replace: bool = False
    ) -> None:
        self.replace = replace
        self._leaves_at = now + (FAREWELL_S if told else 0.0)
        self._gives_back_at = inf
        if grace_s is not None:
            self._gives_back_at = max(self._leaves_at, now + grace_s - GIVE_BACK_S)

    def hurry(self, now: float) -> None:
        """Leave jobs that still run alone from now on."""
        self._gives_back_at = min(self._gives_back_at, max(self._leaves_at, now))

    def ends_at(self, owed: Collection[Key]) -> float:
        """When it may end if nothing changes in what it owes; infinite: not by itself."""
        if not owed:
            return self._leaves_at
        jobs_alone = all(link == JOBS for link, _ in owed)
        return self._gives_back_at if jobs_alone else inf

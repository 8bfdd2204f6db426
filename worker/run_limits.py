"""When a batch has run for too long. Pure.

Theory. What computes on a thread cannot be interrupted, so a batch that does not end is ended
together with its process, by the agent. The replica knows what runs and until when it may, and its
heartbeats tell; the agent counts on its own clock, whether or not more heartbeats come. So an
endless loop is found whether it lets the replica's own loop turn meanwhile or holds the
interpreter's lock.

An operator may say how long one execution may take (`penstock.execution_timeout_ms`). Else a batch
may go on for as long as anybody may wait for it, and a grace: to load a model again costs more than
to let a batch end that is late, and a batch that nobody waits for only keeps others waiting.

Nobody waits for a job, so it has no deadline. It may run for as long as
its client says or the operator does, whichever is less, else for `job_execution_s_max`.

Previous stop: `worker.session`. Next: `worker.supervision`, in the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.batching import Item
from worker.jobs.waiting_jobs import JobItem


@dataclass(frozen=True)
class RunLimits:
    """How long executions may take.

    Attributes:
        execution_timeout_s: longest execution of one batch; None: see `abandoned_grace_s`.
        abandoned_grace_s: how long after the last deadline in it a batch may go on.
        job_execution_s_max: longest execution of jobs where nobody says how long.
    """

    execution_timeout_s: float | None = None
    abandoned_grace_s: float = 30.0
    job_execution_s_max: float = 3600.0

    def ends_by(self, items: Sequence[Item], started: float) -> float:
        """When a batch of these items, started then, must have ended."""
        own = [item.timeout_s for item in items if isinstance(item, JobItem)]
        limits = [limit for limit in (self.execution_timeout_s, *own) if limit is not None]
        if limits:
            return started + min(limits)
        deadlines = [item.deadline for item in items if not isinstance(item, JobItem)]
        if deadlines:
            return max(deadlines) + self.abandoned_grace_s
        return started + self.job_execution_s_max

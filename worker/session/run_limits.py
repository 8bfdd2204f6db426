"""When a batch has run for too long. Pure.

Theory. What computes on a thread cannot be interrupted, so a batch that does not end is ended
together with its process, by the agent. The replica knows what runs and until when it may, and its
heartbeats tell; the agent counts on its own clock, whether or not more heartbeats come. So an
endless loop is found whether it lets the replica's own loop turn meanwhile or holds the
interpreter's lock.

An operator may say how long one execution may take (`penstock.execution_timeout_ms`). Else a batch
may go on for as long as anybody may wait for it, and a grace: to load a model again costs more than
to let a batch end that is late, and a batch that nobody waits for only keeps others waiting.

Nobody waits for a job, so it has no deadline. It may run for `job_execution_s_max`, unless the
operator said how long one execution may take. What its client allows ends the job
(`penstock.worker.job_port.leases`), never a replica that calls share, or any client could have it
reloaded; but it may be longer than `job_execution_s_max`. In a replica for jobs alone, an execution
whose job has ended by its client's timeout gets the grace that calls get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.worker.jobs.queue import JobItem
from penstock.worker.session.batching import Item


@dataclass(frozen=True)
class RunLimits:
    """How long executions may take.

    Attributes:
        execution_timeout_s: longest execution of one batch; None: see `abandoned_grace_s`.
        abandoned_grace_s: how long after the last deadline in it a batch may go on.
        job_execution_s_max: longest execution of jobs where the operator does not say how long.
        jobs_only: no calls come to this replica.
    """

    execution_timeout_s: float | None = None
    abandoned_grace_s: float = 30.0
    job_execution_s_max: float = 3600.0
    jobs_only: bool = False

    def ends_by(self, items: Sequence[Item], started: float) -> float:
        """When a batch of these items, started then, must have ended."""
        if self.execution_timeout_s is not None:
            return started + self.execution_timeout_s
        deadlines = [item.deadline for item in items if not isinstance(item, JobItem)]
        if deadlines:
            return max(deadlines) + self.abandoned_grace_s
        return started + max(self._of_job(item) for item in items if isinstance(item, JobItem))

    def _of_job(self, item: JobItem) -> float:
        """How long an execution of jobs may take, as far as this one matters, in seconds."""
        if item.timeout_s is None:
            return self.job_execution_s_max
        abandoned_s = item.timeout_s + self.abandoned_grace_s
        return abandoned_s if self.jobs_only else max(abandoned_s, self.job_execution_s_max)

"""The jobs that wait in a replica, and which of them run next. Pure.

Theory. Calls come first: jobs run alone when no call waits, or fill up a batch of calls. What runs
cannot be interrupted, so a call that comes meanwhile waits for it. A batch with jobs in it is
therefore kept within a *slice*, by the median of what such batches took: a model that does not get
slower by batching (or hardly) runs jobs in batches as large as those of calls, another runs them
nearly one by one. A single job runs whatever it takes.

The slice is what the operator sets, or else as long as `SLICE_CALLS` executions of one row, so that
a call waits for jobs about as long as it would for another call; but not below `SLICE_S_MIN`, since
of smaller batches the most goes into handing them over.

A job of more rows than a batch runs in pieces, each of which is as long as a batch of others
(`penstock.worker.jobs.large`), and waits for its turn behind others of its class after each.

Jobs of one batch have one bucket, as calls have. One with a time limit of its own is merged with
its like alone, so that all of them are over when it is. A suspect runs alone, and so does what no
trial had the like of.

Few wait here (`JobDesk` sees to that), so a sorted list does.

Previous stop of a job: `penstock.worker.session.session`. Next: `penstock.worker.replica.executor`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Sequence
from math import inf

from penstock.worker.job_line.messages import JOBS, Job
from penstock.worker.jobs.large import LargeJob
from penstock.worker.session.batching import Item
from penstock.worker.session.latency_model import Estimates, LatencyModel

SLICE_S_MIN = 1e-3
"""Shortest slice where none is set."""

SLICE_CALLS = 2.0
"""The slice where none is set, in executions of one row."""


class JobItem(Item):
    """A job that waits to be executed; nobody waits for it, so it is never late.

    Attributes:
        timeout_s: longest execution; None: the job does not say.
        job_id: names it everywhere.
        gone: it was canceled, or its lease is lost, and it runs all the same.
        large: it is executed in pieces, of which this item is the next; None: it is not.
    """

    __slots__ = ("gone", "job_id", "large", "timeout_s")

    def __init__(
        self, job: Job, bucket: Hashable, rows: int, now: float, *, alone: bool = False
    ) -> None:
        request = job.request
        super().__init__(
            (JOBS, job.number),
            bucket,
            rows=rows,
            priority=request.priority,
            deadline=inf,
            start_by=inf,
            enqueued=now,
            payload=request,
            suspect=request.suspect,
            alone=alone,
        )
        self.timeout_s = job.timeout_s
        self.job_id = job.id
        self.gone = False
        self.large: LargeJob | None = None

    def cut(self, rows: int) -> None:
        """Be the next piece of a large job, of so many rows at most."""
        assert self.large is not None
        self.payload = self.large.next(rows)
        self.rows = self.payload.inputs[0].rows

    def run_whole(self) -> None:
        """Be one execution after all, whatever was done of it."""
        assert self.large is not None
        self.payload, self.rows, self.alone = self.large.request, self.large.rows, True
        self.large = None


def _rank(item: JobItem) -> tuple[int, int]:
    return (item.priority, item.sequence)


def slice_s(set_s: float | None, estimates: Estimates) -> float:
    """How long a batch with jobs may take.

    Args:
        set_s: what the operator wants, if anything.
        estimates: of its shape.
    """
    if set_s is not None:
        return set_s
    return max(SLICE_S_MIN, SLICE_CALLS * estimates.middle(1))


class WaitingJobs:
    """See the module's docstring.

    Args:
        latency: execution times, learned elsewhere.
        slice_set_s: longest batch with jobs; None: see above.
        rows_max: most rows in an execution; 0: the model does not batch.
        merges: whether jobs may share executions.
    """

    def __init__(
        self, latency: LatencyModel, slice_set_s: float | None, *, rows_max: int, merges: bool
    ) -> None:
        self._latency = latency
        self._rows_max = rows_max
        self._slice_set_s = slice_set_s
        self._merges = merges
        self._items: list[JobItem] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, item: JobItem) -> None:
        """Take a job in."""
        self._sequence += 1
        item.sequence = self._sequence
        item.waiting = True
        insort(self._items, item, key=_rank)

    def cancel(self, item: JobItem) -> bool:
        """Take a job out; False if it does not wait (any more)."""
        if not item.waiting:
            return False
        self._take([item])
        return True

    def run_whole(self) -> None:
        """Rows are not to be cut any more."""
        for item in self._items:
            if item.large is not None:
                item.run_whole()

    def clear(self) -> list[JobItem]:
        """Take all out, in their order."""
        items = list(self._items)
        self._take(items)
        return items

    def release(self, rows_max: int) -> list[JobItem]:
        """The next batch; some must wait.

        Args:
            rows_max: most rows in a batch now.
        """
        head = self._items[0]
        if head.large is not None:
            head.cut(self._rows_of_piece(head.bucket, rows_max))
        taken = [head]
        if self._merges and not (head.suspect or head.alone):
            estimates = self._latency.of(head.bucket)
            longest_s = slice_s(self._slice_set_s, estimates)
            taken += self._fitting(head, self._items[1:], head.rows, rows_max, longest_s)
        self._take(taken)
        return taken

    def fill(self, calls: Sequence[Item], rows_max: int, now: float) -> list[JobItem]:
        """Jobs to run in the same batch as these calls, none of which gets late by it."""
        first = calls[0]
        if not self._merges or first.suspect or first.alone:
            return []
        rows = sum([call.rows for call in calls])
        estimates = self._latency.of(first.bucket)
        longest_s = slice_s(self._slice_set_s, estimates)
        alone_s = estimates.highest(rows)
        in_time = [call.deadline - now for call in calls if now + alone_s <= call.deadline]
        # What may take long must not make calls late either, so their own estimate is the high one.
        if in_time and estimates.highest(rows_max) > min(in_time):
            return []
        taken = self._fitting(first, self._items, rows, rows_max, longest_s)
        self._take(taken)
        return taken

    def slice_of(self, bucket: Hashable, rows_max: int) -> tuple[int, float]:
        """How many jobs of one row a slice takes, at least one, and for how long; 0: not known."""
        estimates = self._latency.of(bucket)
        if not self._merges:
            return 1, estimates.middle(1)
        longest_s = slice_s(self._slice_set_s, estimates)
        jobs = rows_max
        while jobs > 1 and not 0.0 < estimates.middle(jobs) <= longest_s:
            jobs = (jobs + 1) // 2
        return jobs, estimates.middle(jobs)

    def _rows_of_piece(self, bucket: Hashable, rows_max: int) -> int:
        return self.slice_of(bucket, rows_max)[0] if self._merges else self._rows_max

    def _fitting(
        self,
        first: Item,
        others: Sequence[JobItem],
        rows: int,
        rows_max: int,
        longest_s: float,
    ) -> list[JobItem]:
        """Of the others, in their order, those that fit into a batch that `first` is in."""
        estimates = self._latency.of(first.bucket)
        lane = _lane_of(first)
        taken = []
        for item in others:
            if item.suspect or item.alone or item.large is not None or _lane_of(item) != lane:
                continue
            rows += item.rows
            if rows > rows_max or not 0.0 < estimates.middle(rows) <= longest_s:
                break
            taken.append(item)
        return taken

    def _take(self, items: Sequence[JobItem]) -> None:
        for item in items:
            item.waiting = False
        self._items = [item for item in self._items if item.waiting]


def _lane_of(item: Item) -> Hashable:
    return (item.bucket, item.timeout_s if isinstance(item, JobItem) else None)

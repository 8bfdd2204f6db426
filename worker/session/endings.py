"""What executions come to: answers, what is learned from them, and what is to run again. Pure.

Theory. A batch that fails on its input is bisected, so that one poisoned input fails alone; one
that runs out of memory is halved, and the limit with it; one whose outputs have other rows than
went in runs again one by one, since nobody can tell whose rows they are. What runs alone
and fails, has failed. How long executions took is learned from those that succeeded: by the queue,
which sizes batches by it, and for gateways, which choose among replicas by the time that a row
takes.

Used by `penstock.worker.session.session`, whose invariant (one Final for each accepted attempt)
`penstock.worker.session.owed` keeps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.wire.messages import Failure, Final, Hello, NackReason
from penstock.shared.wire.rows import RowsError
from penstock.shared.wire.tensors import Tensor
from penstock.worker.jobs.queue import JobItem
from penstock.worker.session.batching import BatchQueue, Item
from penstock.worker.session.commands import Command, Send
from penstock.worker.session.counters import Counters
from penstock.worker.session.error_details import with_cause
from penstock.worker.session.latency_model import LatencyModel
from penstock.worker.session.outcomes import Completed, Failed, FailureKind
from penstock.worker.session.owed import Owed

ROW_TIME_SMOOTHING = 0.2
"""Weight of the newest batch in the moving average of time per row. A row takes its share of a full
batch: by the rows that there were, a replica would look the faster the more it is sent (where a
batch takes as long whatever is in it, eight times as fast), and get all the rest as well."""

ROW_TIME_SURPRISE = 4.0
"""One batch counts for no more than so many averages. A process that was stopped for some seconds
would else look a hundred times slower than its peers, and be sent nothing to tell better by."""


@dataclass(slots=True)
class Running:
    """The batch that the runtime executes.

    Attributes:
        started: monotonic seconds.
        rows: of all items together.
        short: it takes so little time that the loop may run it itself.
    """

    items: tuple[Item, ...]
    started: float
    rows: int
    short: bool = False


class Endings:
    """See the module's docstring.

    Args:
        identity: of the replica.
        full_batch: rows in a full batch.
        queue: told when memory ran out.
        latency: told how long executions took.
        counters: told of all.
        error_details: whether callers are told what their request alone had the model raise.

    Attributes:
        again: parts of batches that failed, each to run by itself.
        row_us: how long a row takes, in microseconds; 0: not known.
    """

    def __init__(
        self,
        identity: Hello,
        full_batch: int,
        queue: BatchQueue,
        latency: LatencyModel,
        counters: Counters,
        owed: Owed,
        *,
        error_details: bool,
    ) -> None:
        self.again: deque[tuple[Item, ...]] = deque()
        self.row_us = 0.0
        self._model, self._version = identity.model, identity.version
        self._full_batch = full_batch
        self._queue = queue
        self._latency = latency
        self._counters = counters
        self._owed = owed
        self._error_details = error_details
        self._unfinished: list[JobItem] = []

    def __repr__(self) -> str:
        return f"<Endings {len(self.again)} to run again, {self.row_us:.0f} us per row>"

    def completed(self, running: Running, outcome: Completed) -> list[Command]:
        """An execution succeeded."""
        started, rows = running.started, running.rows
        counters, owed = self._counters, self._owed
        self._learn(running.items[0].bucket, rows, outcome.infer_s)
        counters.copied_bytes += outcome.copied_bytes
        commands: list[Command] = []
        infer_us = int(outcome.infer_s * 1e6)
        queued_us = 0
        for item, outputs in zip(running.items, outcome.outputs, strict=True):
            queue_us = int((started - item.enqueued) * 1e6)
            queued_us += queue_us
            if isinstance(item, JobItem) and item.large is not None:
                self._piece_done(item, running, outcome.infer_s, outputs, commands)
                continue
            owed.settle(item)
            if not item.unwanted:
                link, attempt_id = item.key
                final = Final(
                    attempt_id, outputs, queue_us=queue_us, infer_us=infer_us, batch_rows=rows
                )
                commands.append(Send(link, final))
        counters.queue_us += queued_us
        return commands

    def unfinished(self) -> list[JobItem]:
        """Large jobs whose next piece is to run, each told once."""
        unfinished, self._unfinished = self._unfinished, []
        return unfinished

    def _piece_done(
        self,
        item: JobItem,
        running: Running,
        infer_s: float,
        outputs: tuple[Tensor, ...],
        commands: list[Command],
    ) -> None:
        """A piece of a large job was executed."""
        large = item.large
        assert large is not None
        if large.pieces == 1:
            large.began = running.started
        large.infer_s += infer_s
        if item.gone:
            commands += self._owed.refuse(item, NackReason.DRAINING)
            return
        try:
            large.add(outputs)
        except RowsError:
            item.run_whole()  # and what its pieces answered does not count
        except MemoryError:
            message = f"there is no memory for the answer to {large.rows} rows"
            failure = Failure(ErrorCode.OUT_OF_MEMORY, message)
            commands += self._owed.answer(item, Final(item.payload.attempt_id, (), failure))
            return
        if item.large is None or not large.done:
            self._unfinished.append(item)
            return
        final = Final(
            item.payload.attempt_id,
            large.outputs(),
            queue_us=int((large.began - item.enqueued) * 1e6),
            infer_us=int(large.infer_s * 1e6),
            batch_rows=running.rows,
        )
        commands += self._owed.answer(item, final)

    def failed(self, running: Running, outcome: Failed) -> list[Command]:
        """An execution failed, and the process is of use still."""
        items = running.items
        if outcome.kind is FailureKind.OUT_OF_MEMORY:
            self._queue.halve_batch(running.rows)
        if len(items) > 1 and not _has_timed_out(items[0], outcome.infer_s):
            if outcome.kind is FailureKind.MISFIT:
                self.again.extend([(item,) for item in items])
            else:
                half = len(items) // 2
                self.again.extend((items[:half], items[half:]))
            return []
        self._counters.failures += len(items)
        infer_us = int(outcome.infer_s * 1e6)
        failure = outcome.failure(self._model, self._version)
        if self._error_details and len(items) == 1:
            failure = replace(failure, message=with_cause(failure.message, failure.cause))
        commands: list[Command] = []
        for item in items:
            queue_us = int((running.started - item.enqueued) * 1e6)
            told = failure
            if isinstance(item, JobItem) and item.large is not None:
                told = item.large.failed(failure)
            final = Final(
                item.payload.attempt_id,
                failure=told,
                queue_us=queue_us,
                infer_us=infer_us,
                batch_rows=item.rows,
            )
            commands += self._owed.answer(item, final)
        return commands

    def next_again(self, now: float, commands: list[Command], *, idle: bool) -> tuple[Item, ...]:
        """What is to run again now; empty: nothing, or not while the runtime is not `idle`."""
        wanted = [self._owed.still_wanted(items, now, commands) for items in self.again]
        self.again = deque(filter(None, wanted))
        return self.again.popleft() if idle and self.again else ()

    def _learn(self, shape: Hashable, rows: int, infer_s: float) -> None:
        counters, size_class = self._counters, (rows - 1).bit_length()
        counters.batches += 1
        counters.batch_sizes[size_class] = counters.batch_sizes.get(size_class, 0) + 1
        counters.rows += rows
        counters.infer_us += int(infer_s * 1e6)
        self._latency.observe(shape, rows, infer_s)
        row_us = infer_s * 1e6 / max(rows, self._full_batch)
        if self.row_us:
            surprise_us = min(row_us, ROW_TIME_SURPRISE * self.row_us) - self.row_us
            self.row_us += ROW_TIME_SMOOTHING * surprise_us
        else:
            self.row_us = row_us


def _has_timed_out(item: Item, infer_s: float) -> bool:
    """Whether an execution of jobs, which has ended, took longer than they may.

    One item of a batch tells of all, since jobs with a timeout share batches with their like alone
    (`penstock.worker.jobs.queue`). They must not run again, which would begin their time
    anew. What they are answered here is of no matter: all that comes so late is `DEADLINE_EXCEEDED`
    to the port (`penstock.worker.job_port.leases`).
    """
    return isinstance(item, JobItem) and item.timeout_s is not None and infer_s >= item.timeout_s

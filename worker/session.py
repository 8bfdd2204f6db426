"""What a replica does with messages, executions and time: its whole behaviour without its I/O.

Theory. A session owns the queue and knows the one batch that the runtime executes. Each accepted
attempt gets exactly one Final, unless it was cancelled or its gateway went away; each refused one
gets exactly one Nack. A batch that fails on its input is bisected, so that one poisoned input fails
alone; one that runs out of memory is halved, and the limit with it. Suspects (attempts that were in
a replica when it died) are held one at a time and run alone, each only after its gateway has noted
that its turn has come, so that a second death names the culprit beyond doubt.

Jobs (`worker.jobs`) come over a link of their own, `JOBS`, and are answered over it; no gateway is
there. They run when no call waits, or fill up a batch of calls (`WaitingJobs`). A suspect among
them begins at once or is refused: what might die with it is then only what runs alone anyway. If
nobody wants what runs any more, the replica may drain and end to stop it (`GivingUp`).

Every method returns the commands that the shell is to carry out, in order.

Previous stop of a request: `worker.replica`. Next: `worker.batching`, then `worker.executor`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from math import inf

from shared.deployment import ModelInterface
from shared.errors import ErrorCode
from shared.messages import (
    Alone,
    Cancel,
    Drain,
    Envelope,
    Failure,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    NackReason,
    Probe,
    Proceed,
    Request,
    SuspectTurn,
)
from worker.batching import BatchLimits, BatchQueue, DispatchReason, Item, Key
from worker.buckets import Buckets
from worker.commands import Command, End, Execute, Send
from worker.counters import Counters
from worker.draining import Draining
from worker.jobs.desk import Busyness
from worker.jobs.giving_up import GivingUp
from worker.jobs.messages import JOBS, Job
from worker.jobs.waiting_jobs import JobItem, WaitingJobs
from worker.latency_model import LatencyModel
from worker.outcomes import Completed, Failed, FailureKind, Outcome
from worker.run_limits import RunLimits
from worker.short_runs import ShortRuns

ROW_TIME_SMOOTHING = 0.2
"""Weight of the newest batch in the moving average of time per row. A row takes its share of a full
batch: by the rows that there were, a replica would look the faster the more it is sent (where a
batch takes as long whatever is in it, eight times as fast), and get all the rest as well."""

ROW_TIME_SURPRISE = 4.0
"""One batch counts for no more than so many averages. A process that was stopped for some seconds
would else look a hundred times slower than its peers, and be sent nothing to tell better by."""

LONG_BATCH_S = 0.05
"""A batch that has run for so long is told of by name: if it hangs, it is known what hung."""

SUSPECT_TURN_S = 0.25
"""How long the runtime waits for a gateway to let a suspect proceed; then others get their turn."""


@dataclass(slots=True)
class _Turn:
    item: Item
    until: float


@dataclass(slots=True)
class _Running:
    items: tuple[Item, ...]
    started: float
    rows: int
    short: bool = False


class Session:
    """See the module's docstring.

    Args:
        identity: the Hello that introduces this replica.
        interface: what its model takes and gives.
        limits: bounds of the queue.
        latency: execution times; may already hold those of the warm-up.
        run_limits: how long executions may take.
        job_slice_s: longest batch with jobs in it; None: see `WaitingJobs`.
        job_cancel_grace_s: how long jobs that nobody wants any more may run.
    """

    def __init__(
        self,
        identity: Hello,
        interface: ModelInterface,
        limits: BatchLimits,
        latency: LatencyModel,
        run_limits: RunLimits,
        job_slice_s: float | None = None,
        job_cancel_grace_s: float = inf,
    ) -> None:
        self.counters = Counters()
        self._identity = identity
        self._batches = interface.max_batch_size > 0
        self._full_batch = max(limits.max_batch_size, 1)
        self._latency = latency
        self._run_limits = run_limits
        self._queue = BatchQueue(limits, latency)
        merges = self._batches and not interface.streams
        self._jobs = WaitingJobs(latency, job_slice_s, merges=merges)
        self._job_bucket: Hashable = None
        self._giving_up = GivingUp(job_cancel_grace_s)
        self._buckets = Buckets(batches=self._batches)
        self._short_runs = ShortRuns()
        self._links: dict[str, str] = {}
        self._running: _Running | None = None
        self._again: deque[tuple[Item, ...]] = deque()
        self._owed: dict[Key, Item] = {}  # accepted and not yet answered or dropped
        self._suspect: Key | None = None
        self._turn: _Turn | None = None
        self._row_us = 0.0
        self._draining: Draining | None = None

    def __repr__(self) -> str:
        running = len(self._running.items) if self._running else 0
        state = "open" if self._draining is None else "draining"
        return f"<Session {state}, {len(self._queue)} queued, {running} running>"

    @property
    def _idle(self) -> bool:
        return self._running is None and self._turn is None

    @property
    def _idle_of_all(self) -> bool:
        return self._idle and not (self._queue.rows or self._jobs or self._again)

    @property
    def queued_rows(self) -> int:
        """Rows of calls that wait."""
        return self._queue.rows

    @property
    def has_more(self) -> bool:
        """Whether calls or jobs wait."""
        return self._queue.rows > 0 or len(self._jobs) > 0

    @property
    def executing_rows(self) -> int:
        """Rows in the batch that runs now."""
        return self._running.rows if self._running else 0

    @property
    def executing_since(self) -> float | None:
        """When the batch that runs now began; None: none runs."""
        return self._running.started if self._running else None

    def batch_ends_by(self) -> float | None:
        """When the batch that runs now must have ended; None: none runs."""
        if self._running is None:
            return None
        return self._run_limits.ends_by(self._running.items, self._running.started)

    def gateway_at(self, link: str) -> str:
        """The life of the gateway at `link` that spoke last; empty if none did."""
        return self._links.get(link, "")

    def received(self, link: str, envelope: Envelope, now: float) -> list[Command]:
        """Messages came over `link` from the life of the gateway there that the envelope names."""
        commands: list[Command] = []
        gateway = envelope.gateway
        for message in envelope.messages:
            known = self._links.get(link) == gateway
            if not known:
                commands += self._greet(link, gateway)
            if type(message) is Request:
                self._accept(link, message, now, commands)
            elif type(message) is Probe:
                if known:  # else it was greeted just now
                    commands += self._probed(link, gateway, message, now)
            else:
                commands += self._told(link, message, now)
        return commands

    def jobs_arrived(self, jobs: Sequence[Job], now: float) -> list[Command]:
        """Jobs are here to be executed; those that are refused are answered at once."""
        commands: list[Command] = []
        for job in jobs:
            suspect = job.request.suspect
            if self._draining is not None:
                commands.append(Send(JOBS, Nack(job.number, NackReason.DRAINING)))
            elif suspect and not self._idle_of_all:
                commands.append(Send(JOBS, Nack(job.number, NackReason.SUSPECT_BUSY)))
            else:
                item = JobItem(job, self._buckets.of(job.request), self._rows_of(job.request), now)
                self._owed[item.key] = item
                self._jobs.offer(item)
        return commands

    def job_gone(self, number: int, now: float) -> bool:
        """Nobody wants this job any more; False: it runs, and its answer is still to come."""
        item = self._owed.get((JOBS, number))
        if item is None:
            return True
        assert isinstance(item, JobItem)
        if not self._jobs.cancel(item):
            item.gone = True
            if self._running is not None:
                self._giving_up.gone(self._running.items, now)
            return False
        item.unwanted = True
        self._settle(item)
        return True

    def busyness(self) -> Busyness:
        """What there is to do, for those who lease jobs."""
        rows_max = self._queue.rows_per_batch
        crowded = self._draining is not None or self._queue.rows > rows_max
        jobs, seconds = self._jobs.slice_of(self._job_bucket, rows_max)
        return Busyness(self._idle_of_all, crowded, jobs, seconds, self.counters.requests)

    def expected_s(self, items: Sequence[Item]) -> float:
        """How long a batch is expected to take; 0: not known."""
        return self._latency.of(items[0].bucket).middle(sum([item.rows for item in items]))

    def link_lost(self, link: str) -> None:
        """The gateway at `link` went away: nobody waits for its answers any more."""
        self._links.pop(link, None)
        for item in [item for key, item in self._owed.items() if key[0] == link]:
            self._drop(item)

    def executed(self, outcome: Outcome) -> list[Command]:
        """The batch that ran last has ended."""
        if self._running is None:
            raise ValueError("nothing was running")
        running, self._running = self._running, None
        self._giving_up.over()
        if running.short:
            self._short_runs.ran(outcome.infer_s)
        if isinstance(outcome, Completed):
            commands = self._answer(running, outcome)
        elif outcome.kind is FailureKind.FATAL:
            return [End(fatal=True)]
        else:
            commands = self._fail(running, outcome)
        if running.items[0].suspect:
            commands += self._tell_others(running.items[0].key[0], Alone(active=False))
        return commands

    def advance(self, now: float) -> list[Command]:
        """Answer what expired and start what may start: call it after every turn of the loop.

        It is apart from `received`, so that all that came in one turn can share a batch.
        """
        commands: list[Command] = []
        for item in self._queue.expire(now):
            commands += self._expired(item, now)
        if self._turn is not None and now >= min(self._turn.until, self._turn.item.start_by):
            commands += self._turn_missed(self._turn.item, now)
        if self._again:
            wanted = [self._unexpired(items, now, commands) for items in self._again]
            self._again = deque(filter(None, wanted))
        if self._idle and self._again:
            self._start(self._again.popleft(), "again", now, commands)
        if self._idle and (release := self._queue.release(now)) is not None:
            for item in release.infeasible:
                commands += self._too_late(item, now)
            if release.items:
                reason = release.reason.value
                self._count(reason)
                items = release.items
                if self._jobs:
                    items += tuple(self._jobs.fill(items, self._queue.rows_per_batch, now))
                self._start(items, reason, now, commands)
        if self._jobs and self._idle and not self._queue.rows:
            self._start_jobs(now, commands)
        give_up_at = self._giving_up.due(self._owed)
        if give_up_at is not None and now >= give_up_at:
            commands += self._give_up(now)
        if self._draining is not None and now >= self._draining.ends_at(self._owed):
            commands.append(End(fatal=False, replace=self._draining.replace))
        return commands

    def next_deadline(self) -> float | None:
        """When `advance` must be called at the latest; None: not by itself."""
        deadline = self._queue.next_deadline()
        if self._draining is not None:
            ends_at = self._draining.ends_at(self._owed)
            deadline = ends_at if deadline is None else min(deadline, ends_at)
        give_up_at = self._giving_up.due(self._owed)
        if give_up_at is not None:
            deadline = give_up_at if deadline is None else min(deadline, give_up_at)
        if self._turn is None and not self._again:
            return deadline
        due = [item.deadline for items in self._again for item in items]
        if self._turn is not None:
            due += [self._turn.until, self._turn.item.start_by]
        return min(due if deadline is None else [*due, deadline])

    def route_changed(self, route: bytes) -> list[Command]:
        """The route of this model changed: announce it to every gateway."""
        self._identity = replace(self._identity, route=route)
        return [Send(link, self._identity) for link in self._links]

    def drain(
        self, now: float, grace_s: float | None = None, *, replace: bool = False
    ) -> list[Command]:
        """Take nothing new, finish what was accepted, then end (`worker.draining`)."""
        if self._draining is not None:
            return []
        told = bool(self._links)
        self._draining = Draining(now, told=told, grace_s=grace_s, replace=replace)
        commands: list[Command] = [Send(link, Drain()) for link in self._links]
        for item in self._jobs.clear():
            self._settle(item)
            commands.append(Send(JOBS, Nack(item.key[1], NackReason.DRAINING)))
        return commands

    def _give_up(self, now: float) -> list[Command]:
        """End, since that is the only way to stop what runs."""
        self._giving_up.over()
        commands = self.drain(now, replace=True)
        assert self._draining is not None
        self._draining.hurry(now)
        return commands

    def _greet(self, link: str, gateway: str) -> list[Command]:
        self.link_lost(link)
        self._links[link] = gateway
        hello: list[Command] = [Send(link, self._identity)]
        return [*hello, Send(link, Drain())] if self._draining is not None else hello

    def _probed(self, link: str, gateway: str, probe: Probe, now: float) -> list[Command]:
        return [Send(link, self._load(link, now))] if probe.known else self._greet(link, gateway)

    def _told(self, link: str, message: Message, now: float) -> list[Command]:
        """What is neither a request nor a probe."""
        match message:
            case Proceed():
                return self._proceed((link, message.attempt_id), now)
            case Cancel():
                item = self._owed.get((link, message.attempt_id))
                if item is not None:
                    self._drop(item)
            case Drain():
                self.link_lost(link)
            case _:
                pass  # a peer's mistake; nothing here depends on it
        return []

    def _accept(self, link: str, request: Request, now: float, commands: list[Command]) -> None:
        key = (link, request.attempt_id)
        if key in self._owed:
            return  # a copy; the first one will be answered
        if self._draining is not None:
            commands.append(Send(link, Nack(request.attempt_id, NackReason.DRAINING)))
            return
        if request.suspect and self._suspect is not None:
            commands.append(Send(link, Nack(request.attempt_id, NackReason.SUSPECT_BUSY)))
            return
        deadline = now + request.budget_us / 1e6
        start_by = deadline
        if request.queue_budget_us:
            start_by = min(deadline, now + request.queue_budget_us / 1e6)
        item = Item(
            key,
            self._buckets.of(request),
            self._rows_of(request),
            request.priority,
            deadline,
            start_by,
            now,
            request,
            request.suspect,
        )
        if not self._queue.offer(item):
            commands.append(Send(link, Nack(request.attempt_id, NackReason.FULL)))
            return
        self._owed[key] = item
        if request.suspect:
            self._suspect = key
        self.counters.requests += 1

    def _rows_of(self, request: Request) -> int:
        return (request.inputs[0].rows or 1) if self._batches and request.inputs else 1

    def _start_jobs(self, now: float, commands: list[Command]) -> None:
        items = self._jobs.release(self._queue.rows_per_batch)
        self._job_bucket = items[0].bucket
        self._count(DispatchReason.JOBS.value)
        if items[0].suspect:
            commands += self._tell_others(JOBS, Alone(active=True))
        self._run(tuple(items), DispatchReason.JOBS.value, now, commands)

    def _count(self, reason: str) -> None:
        self.counters.dispatched[reason] = self.counters.dispatched.get(reason, 0) + 1

    def _start(
        self, items: tuple[Item, ...], reason: str, now: float, commands: list[Command]
    ) -> None:
        if not items:
            return
        if items[0].suspect:
            self._turn = _Turn(items[0], now + SUSPECT_TURN_S)
            commands.append(Send(items[0].key[0], SuspectTurn(items[0].key[1])))
        else:
            self._run(items, reason, now, commands)

    def _run(
        self, items: tuple[Item, ...], reason: str, now: float, commands: list[Command]
    ) -> None:
        rows = sum([item.rows for item in items])
        fresh = reason != "again"
        short = fresh and self._short_runs.allow(self._latency.of(items[0].bucket), rows)
        self._running = _Running(items, now, rows, short)
        commands.append(Execute(items, reason, short))

    def _proceed(self, key: Key, now: float) -> list[Command]:
        """The gateway knows that this suspect is being executed: do so."""
        if self._turn is None or self._turn.item.key != key or self._turn.item.start_by <= now:
            return []
        items = (self._turn.item,)
        self._turn = None
        self._running = _Running(items, now, items[0].rows)
        return [*self._tell_others(key[0], Alone(active=True)), Execute(items, "suspect")]

    def _tell_others(self, link: str, message: Message) -> list[Send]:
        return [Send(other, message) for other in self._links if other != link]

    def _turn_missed(self, item: Item, now: float) -> list[Command]:
        self._turn = None
        if item.start_by <= now:
            return self._expired(item, now)
        self._settle(item)
        return [Send(item.key[0], Nack(item.key[1], NackReason.SUSPECT_BUSY))]

    def _unexpired(
        self, items: tuple[Item, ...], now: float, commands: list[Command]
    ) -> tuple[Item, ...]:
        """Of a batch that is to run again: what is still wanted, and still in time."""
        wanted = []
        for item in items:
            if item.unwanted:
                self._settle(item)
            elif isinstance(item, JobItem) and item.gone:
                self._settle(item)
                commands.append(Send(JOBS, Nack(item.key[1], NackReason.DRAINING)))  # not again
            elif item.deadline <= now:
                commands += self._too_late(item, now)
            else:
                wanted.append(item)
        return tuple(wanted)

    def _expired(self, item: Item, now: float) -> list[Command]:
        """It did not begin in time."""
        if item.start_by == item.deadline:
            return self._too_late(item, now)
        message = "it was not begun within the time that it may wait"
        return self._never_run(item, Failure(ErrorCode.QUEUE_TIMEOUT, message), now)

    def _too_late(self, item: Item, now: float) -> list[Command]:
        """It cannot end in time."""
        failure = Failure(ErrorCode.DEADLINE_EXCEEDED, "the deadline passed in the queue")
        return self._never_run(item, failure, now)

    def _never_run(self, item: Item, failure: Failure, now: float) -> list[Command]:
        self.counters.expired += 1
        queue_us = int((now - item.enqueued) * 1e6)
        return self._final(item, Final(item.payload.attempt_id, (), failure, queue_us))

    def _answer(self, running: _Running, outcome: Completed) -> list[Command]:
        started, rows = running.started, running.rows
        self._learn(running.items[0].bucket, rows, outcome.infer_s)
        self.counters.copied_bytes += outcome.copied_bytes
        commands: list[Command] = []
        infer_us = int(outcome.infer_s * 1e6)
        queued_us = 0
        for item, outputs in zip(running.items, outcome.outputs, strict=True):
            queue_us = int((started - item.enqueued) * 1e6)
            queued_us += queue_us
            self._settle(item)
            if not item.unwanted:
                link, attempt_id = item.key
                final = Final(attempt_id, outputs, None, queue_us, infer_us, rows)
                commands.append(Send(link, final))
        self.counters.queue_us += queued_us
        return commands

    def _learn(self, shape: Hashable, rows: int, infer_s: float) -> None:
        counters, size_class = self.counters, (rows - 1).bit_length()
        counters.batches += 1
        counters.batch_sizes[size_class] = counters.batch_sizes.get(size_class, 0) + 1
        counters.rows += rows
        counters.infer_us += int(infer_s * 1e6)
        self._latency.observe(shape, rows, infer_s)
        row_us = infer_s * 1e6 / max(rows, self._full_batch)
        if self._row_us:
            surprise_us = min(row_us, ROW_TIME_SURPRISE * self._row_us) - self._row_us
            self._row_us += ROW_TIME_SMOOTHING * surprise_us
        else:
            self._row_us = row_us

    def _fail(self, running: _Running, outcome: Failed) -> list[Command]:
        items = running.items
        if outcome.kind is FailureKind.OUT_OF_MEMORY:
            self._queue.halve_batch(running.rows)
        if len(items) > 1 and not _has_timed_out(items[0], outcome.infer_s):
            half = len(items) // 2
            self._again.extend((items[:half], items[half:]))
            return []
        self.counters.failures += len(items)
        infer_us = int(outcome.infer_s * 1e6)
        failure = outcome.failure(self._identity.model, self._identity.version)
        commands: list[Command] = []
        for item in items:
            queue_us = int((running.started - item.enqueued) * 1e6)
            final = Final(item.payload.attempt_id, (), failure, queue_us, infer_us, item.rows)
            commands += self._final(item, final)
        return commands

    def _final(self, item: Item, final: Final) -> list[Command]:
        self._settle(item)
        return [] if item.unwanted else [Send(item.key[0], final)]

    def _drop(self, item: Item) -> None:
        """Nobody waits for this attempt: out of the queue, or its answer is discarded."""
        item.unwanted = True
        if self._turn is not None and self._turn.item is item:
            self._turn = None
            self._settle(item)
        elif self._queue.cancel(item):
            self._settle(item)

    def _settle(self, item: Item) -> None:
        """It is answered, refused, or was cancelled: that is the end of it."""
        del self._owed[item.key]
        if item.unwanted:
            self.counters.cancelled += 1
        if item.suspect and item.key == self._suspect:
            self._suspect = None

    def _load(self, link: str, now: float) -> Load:
        running = self._running
        executing: list[int] = []
        if running is not None and now - running.started >= LONG_BATCH_S:
            executing = [item.key[1] for item in running.items if item.key[0] == link]
        rows = self._queue.rows, self.executing_rows
        return Load(*rows, int(self._row_us), tuple(executing))


def _has_timed_out(item: Item, infer_s: float) -> bool:
    """Whether an execution of jobs, which has ended, took longer than they may.

    One item of a batch tells of all, since jobs with a timeout share batches with their like alone
    (`worker.jobs.waiting_jobs`). They must not run again, which would begin their time anew. What
    they are answered here is of no matter: all that comes so late is `DEADLINE_EXCEEDED` to the
    port (`worker.jobs.leases`).
    """
    return isinstance(item, JobItem) and item.timeout_s is not None and infer_s >= item.timeout_s

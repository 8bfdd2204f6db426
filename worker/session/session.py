"""What a replica does with messages, executions and time: its whole behaviour without its I/O.

Theory. A session owns the queue and knows the one batch that the runtime executes. Each accepted
attempt gets exactly one Final, unless it was cancelled or its gateway went away; each refused one
gets exactly one Nack (`penstock.worker.session.owed`). What executions come to, and what is to run
again after one failed, `penstock.worker.session.endings` decides. Suspects (attempts that were in a
replica when it died) are held one at a time and run alone, each when its turn has come
(`penstock.worker.session.suspect_turns`).

Jobs (`penstock.worker.jobs`) come over a link of their own, `JOBS`, and are answered over it; no
gateway is there. They run when no call waits, or fill up a batch of calls (`WaitingJobs`). A
suspect among them begins at once or is refused: what might die with it is then only what runs alone
anyway. If nobody wants what runs any more, the replica may drain and end to stop it (`GivingUp`).

Every method returns the commands that the shell is to carry out, in order.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import inf

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.messages import (
    Alone,
    Cancel,
    Drain,
    Envelope,
    Hello,
    Load,
    Message,
    Nack,
    NackReason,
    Probe,
    Proceed,
    Request,
)
from penstock.worker.job_line.messages import JOBS, Job
from penstock.worker.jobs.desk import Busyness
from penstock.worker.jobs.giving_up import GivingUp
from penstock.worker.jobs.large import LargeJob
from penstock.worker.jobs.queue import JobItem, WaitingJobs
from penstock.worker.session.batching import BatchLimits, BatchQueue, DispatchReason, Item, Key
from penstock.worker.session.buckets import Buckets
from penstock.worker.session.commands import Command, End, Execute, Misfit, OutOfMemory, Send
from penstock.worker.session.counters import Counters
from penstock.worker.session.draining import Draining
from penstock.worker.session.endings import Endings, Running
from penstock.worker.session.latency_model import LatencyModel
from penstock.worker.session.outcomes import Completed, Failed, FailureKind, Outcome
from penstock.worker.session.owed import Owed
from penstock.worker.session.run_limits import RunLimits
from penstock.worker.session.short_runs import ShortRuns
from penstock.worker.session.suspect_turns import SuspectTurns

LONG_BATCH_S = 0.05
"""A batch that has run for so long is told of by name: if it hangs, it is known what hung."""


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
        tried: which inputs requests must have to share executions, as the finding says.
        error_details: whether callers are told what their request alone had the model raise.
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
        tried: Sequence[Sequence[str]] | None = None,
        *,
        error_details: bool = False,
    ) -> None:
        self.counters = Counters()
        self._identity = identity
        self._batches = interface.max_batch_size > 0
        self._latency = latency
        self._run_limits = run_limits
        self._queue = BatchQueue(limits, latency)
        self._owed = Owed(self.counters)
        self._turns = SuspectTurns(self._owed)
        full_batch = max(limits.max_batch_size, 1)
        self._endings = Endings(
            identity,
            full_batch,
            queue=self._queue,
            latency=latency,
            counters=self.counters,
            owed=self._owed,
            error_details=error_details,
        )
        merges = self._batches and not interface.streams
        self._rows_max = interface.max_batch_size
        self._jobs = WaitingJobs(latency, job_slice_s, rows_max=self._rows_max, merges=merges)
        self._job_bucket: Hashable = None
        self._giving_up = GivingUp(job_cancel_grace_s, self._owed.items)
        parameters = [spec.name for spec in interface.parameters]
        self._buckets = Buckets(batches=self._batches, parameters=parameters, tried=tried)
        self._short_runs = ShortRuns()
        self._links: dict[str, str] = {}
        self._running: Running | None = None
        self._draining: Draining | None = None
        self._misfit = False

    def __repr__(self) -> str:
        running = len(self._running.items) if self._running else 0
        state = "open" if self._draining is None else "draining"
        return f"<Session {state}, {len(self._queue)} queued, {running} running>"

    @property
    def _idle(self) -> bool:
        return self._running is None and self._turns.item is None

    @property
    def _idle_of_all(self) -> bool:
        return self._idle and not (self._queue.rows or self._jobs or self._endings.again)

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
                bucket, alone = self._buckets.of(job.request)
                item = JobItem(job, bucket, self._rows_of(job.request), now, alone=alone)
                if self._batches and item.rows > self._rows_max and not alone:
                    item.large = LargeJob(job.request)
                self._owed.items[item.key] = item
                self._jobs.offer(item)
        return commands

    def job_gone(self, number: int, now: float) -> bool:
        """Nobody wants this job any more; False: it runs, and its answer is still to come."""
        item = self._owed.items.get((JOBS, number))
        if item is None:
            return True
        assert isinstance(item, JobItem)
        if not self._jobs.cancel(item):
            item.gone = True
            if self._running is not None:
                self._giving_up.gone(self._running.items, now)
            return False
        item.unwanted = True
        self._owed.settle(item)
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
        for item in self._owed.to(link):
            self._drop(item)

    def executed(self, outcome: Outcome) -> list[Command]:
        """The batch that ran last has ended."""
        if self._running is None:
            raise ValueError("nothing was running")
        running, self._running = self._running, None
        rows_per_batch = self._queue.rows_per_batch
        self._giving_up.over()
        if running.short:
            self._short_runs.ran(outcome.infer_s)
        if isinstance(outcome, Completed):
            commands = self._endings.completed(running, outcome)
            for item in self._endings.unfinished():
                self._go_on(item, commands)
        elif outcome.kind is FailureKind.FATAL:
            return [End(fatal=True)]
        else:
            commands = self._endings.failed(running, outcome)
        if running.items[0].suspect:
            commands += self._tell_others(running.items[0].key[0], Alone(active=False))
        if self._queue.rows_per_batch < rows_per_batch:
            commands.append(OutOfMemory(running.rows, self._queue.rows_per_batch))
        misfit = outcome.misfit if isinstance(outcome, Completed) else _misfit_of(outcome)
        if misfit and not self._misfit:
            self._misfit = True
            self._queue.merge_at_most(1)
            commands.append(Misfit(misfit))
        return commands

    def advance(self, now: float) -> list[Command]:
        """Answer what expired and start what may start: call it after every turn of the loop.

        It is apart from `received`, so that all that came in one turn can share a batch.
        """
        commands: list[Command] = []
        for item in self._queue.expire(now):
            commands += self._owed.expired(item, now)
        if self._turns.item is not None and now >= self._turns.ends_at():
            commands += self._turns.missed(now)
        if self._endings.again:
            items = self._endings.next_again(now, commands, idle=self._idle)
            self._start(items, "again", now, commands)
        if self._idle and (release := self._queue.release(now)) is not None:
            for item in release.infeasible:
                commands += self._owed.too_late(item, now)
            if release.items:
                reason = release.reason.value
                self._count(reason)
                items = release.items
                if self._jobs:
                    items += tuple(self._jobs.fill(items, self._queue.rows_per_batch, now))
                self._start(items, reason, now, commands)
        if self._jobs and self._idle and not self._queue.rows:
            self._start_jobs(now, commands)
        give_up_at = self._giving_up.due()
        if give_up_at is not None and now >= give_up_at:
            commands += self._give_up(now)
        if self._draining is not None and now >= self._draining.ends_at(self._owed.items):
            commands.append(End(fatal=False, replace=self._draining.replace))
        return commands

    def next_deadline(self) -> float | None:
        """When `advance` must be called at the latest; None: not by itself."""
        deadline = self._queue.next_deadline()
        if self._draining is not None:
            ends_at = self._draining.ends_at(self._owed.items)
            deadline = ends_at if deadline is None else min(deadline, ends_at)
        give_up_at = self._giving_up.due()
        if give_up_at is not None:
            deadline = give_up_at if deadline is None else min(deadline, give_up_at)
        if self._turns.item is None and not self._endings.again:
            return deadline
        due = [item.deadline for items in self._endings.again for item in items]
        due.append(self._turns.ends_at())
        return min(due if deadline is None else [*due, deadline])

    def route_changed(self, route: bytes) -> list[Command]:
        """The route of this model changed: announce it to every gateway."""
        self._identity = replace(self._identity, route=route)
        return [Send(link, self._identity) for link in self._links]

    def lowered(self, interface: ModelInterface, rows_merged: int) -> list[Send]:
        """The model turned out to allow less than was thought: hold to that, tell every gateway.

        Args:
            interface: what it takes now.
            rows_merged: most rows in an execution that requests share.
        """
        self._queue.merge_at_most(rows_merged)
        announced = interface.model_dump_json().encode()
        if announced == self._identity.interface:
            return []
        if self._batches and not interface.max_batch_size:
            self._batches = False
            self._jobs.run_whole()
            self._buckets = Buckets(batches=False)
        self._identity = replace(self._identity, interface=announced)
        return [Send(link, self._identity) for link in self._links]

    def drain(
        self, now: float, grace_s: float | None = None, *, replace: bool = False
    ) -> list[Command]:
        """Take nothing new, finish what was accepted, then end (see `draining`)."""
        if self._draining is not None:
            return []
        told = bool(self._links)
        self._draining = Draining(now, told=told, grace_s=grace_s, replace=replace)
        commands: list[Command] = [Send(link, Drain()) for link in self._links]
        for item in self._jobs.clear():
            commands += self._owed.refuse(item, NackReason.DRAINING)
        return commands

    def _go_on(self, item: JobItem, commands: list[Command]) -> None:
        """A piece of a large job is done, and more are to come."""
        if self._draining is not None:
            commands += self._owed.refuse(item, NackReason.DRAINING)
            return
        if not self._batches and item.large is not None:
            item.run_whole()
        self._jobs.offer(item)

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
                item = self._owed.items.get((link, message.attempt_id))
                if item is not None:
                    self._drop(item)
            case Drain():
                self.link_lost(link)
            case _:
                pass  # a peer's mistake; nothing here depends on it
        return []

    def _accept(self, link: str, request: Request, now: float, commands: list[Command]) -> None:
        key = (link, request.attempt_id)
        owed = self._owed.items
        if key in owed:
            return  # a copy; the first one will be answered
        if self._draining is not None:
            commands.append(Send(link, Nack(request.attempt_id, NackReason.DRAINING)))
            return
        if request.suspect and self._owed.suspect is not None:
            commands.append(Send(link, Nack(request.attempt_id, NackReason.SUSPECT_BUSY)))
            return
        deadline = now + request.budget_us / 1e6
        start_by = deadline
        if request.queue_budget_us:
            start_by = min(deadline, now + request.queue_budget_us / 1e6)
        bucket, alone = self._buckets.of(request)
        item = Item(
            key,
            bucket,
            rows=self._rows_of(request),
            priority=request.priority,
            deadline=deadline,
            start_by=start_by,
            enqueued=now,
            payload=request,
            suspect=request.suspect,
            alone=alone,
        )
        if not self._queue.offer(item):
            commands.append(Send(link, Nack(request.attempt_id, NackReason.FULL)))
            return
        owed[key] = item
        if request.suspect:
            self._owed.suspect = key
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
            commands += self._turns.begin(items[0], now)
        else:
            self._run(items, reason, now, commands)

    def _run(
        self, items: tuple[Item, ...], reason: str, now: float, commands: list[Command]
    ) -> None:
        rows = sum([item.rows for item in items])
        fresh = reason != "again"
        short = fresh and self._short_runs.allow(self._latency.of(items[0].bucket), rows)
        self._running = Running(items, now, rows, short)
        commands.append(Execute(items, reason, short))

    def _proceed(self, key: Key, now: float) -> list[Command]:
        """The gateway knows that this suspect is being executed: do so."""
        item = self._turns.proceed(key, now)
        if item is None:
            return []
        self._running = Running((item,), now, item.rows)
        return [*self._tell_others(key[0], Alone(active=True)), Execute((item,), "suspect")]

    def _tell_others(self, link: str, message: Message) -> list[Send]:
        return [Send(other, message) for other in self._links if other != link]

    def _drop(self, item: Item) -> None:
        """Nobody waits for this attempt: out of the queue, or its answer is discarded."""
        item.unwanted = True
        if self._turns.drop(item) or self._queue.cancel(item):
            self._owed.settle(item)

    def _load(self, link: str, now: float) -> Load:
        running = self._running
        executing: list[int] = []
        if running is not None and now - running.started >= LONG_BATCH_S:
            executing = [item.key[1] for item in running.items if item.key[0] == link]
        rows = self._queue.rows, self.executing_rows
        return Load(*rows, int(self._endings.row_us), tuple(executing))


def _misfit_of(outcome: Failed) -> str:
    return outcome.reason if outcome.kind is FailureKind.MISFIT else ""

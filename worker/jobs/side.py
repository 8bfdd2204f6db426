"""The jobs' side of a replica's loop: between the session, the desk and the port. A thin shell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import inf
from threading import Event

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.jobs.answers import Progress
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Final, Message, Nack
from penstock.worker.control.messages import JobsStart, Start
from penstock.worker.job_line.messages import (
    JOBS,
    Began,
    Begin,
    Ended,
    Gone,
    InputFetched,
    Leased,
    LeaseTerms,
    PortLost,
    Told,
)
from penstock.worker.jobs.begun import BegunJobs
from penstock.worker.jobs.desk import BATCHES_HELD, JobDesk
from penstock.worker.jobs.large import NOTED_EVERY
from penstock.worker.jobs.port_link import PortLink
from penstock.worker.jobs.processor_waits import ProcessorWaits
from penstock.worker.jobs.queue import JobItem
from penstock.worker.jobs.stream import NoAnswer, Stopped, run_stream, streams
from penstock.worker.replica.poll import Waiting
from penstock.worker.runtimes.base import Runtime
from penstock.worker.session.batching import Item
from penstock.worker.session.commands import Command
from penstock.worker.session.outcomes import Failed, FailureKind, Outcome
from penstock.worker.session.session import Session

LONG_S = 1.0
"""Executions that are expected to take longer have their progress estimated."""

PROGRESS_EVERY_S = 0.25
"""How often the progress of jobs in pieces is told: a person who watches sees it move."""

FLUSH_S = 10.0
"""How long a replica that ends waits for a store that is away; leases end by themselves."""

log = get_logger("jobs")


class Jobs:
    """Used by the replica's loop.

    Args:
        start: of the replica.
        jobs: what of that concerns jobs.
        waiting: what the loop waits with.
    """

    def __init__(self, start: Start, jobs: JobsStart, waiting: Waiting) -> None:
        self._start = start
        self._jobs = jobs
        self._link = PortLink(waiting, jobs.lease_s)
        self._desk = JobDesk(0)
        self._stop: dict[int, Event] = {}  # of the stream that runs
        self._begun: BegunJobs | None = None
        self._waits = ProcessorWaits()
        self._next_progress = 0.0

    def spawn(self) -> None:
        """Start the port's process, while the model is yet to be loaded."""
        self._link.spawn()

    def start(self, interface: ModelInterface) -> None:
        """The model is loaded: begin to lease."""
        held_max = self._start.settings.job_concurrency
        if held_max is None:
            held_max = BATCHES_HELD * max(interface.max_batch_size, 1)
        self._desk = JobDesk(held_max)
        if self._jobs.begun_fd is not None:
            self._begun = BegunJobs(self._jobs.begun_fd)
        self._link.begin(_begin(self._start, self._jobs, interface))

    def next_deadline(self, now: float) -> float:
        """When `pull` must be called at the latest."""
        deadline = self._desk.next_deadline(now)
        look = self._link.next_look()
        return look if deadline is None else min(look, deadline)

    def collect(self, session: Session, ready: Mapping[object, int], now: float) -> list[Command]:
        """Take in what the port said."""
        commands: list[Command] = []
        for message in self._link.receive(ready):
            self._desk.heard(message, now)
            match message:
                case Leased():
                    commands += session.jobs_arrived(message.jobs, now)
                case InputFetched():
                    commands += session.jobs_arrived([message.job], now)
                case Gone():
                    self._gone(session, message.number, now)
                case PortLost():
                    for number in self._desk.held:
                        self._gone(session, number, now)
                case _:
                    pass
        return commands

    def _gone(self, session: Session, number: int, now: float) -> None:
        if session.job_gone(number, now):
            self._desk.left(number)
        elif number in self._stop:
            self._stop[number].set()

    def pull(self, session: Session, now: float) -> None:
        """See to the port, and lease more if there is room."""
        if now >= self._link.next_look():
            self._link.look(now)
        if not self._desk.wants(now) or not self._link.is_up:
            return
        pull = self._desk.pull(session.busyness(), now, self._waits.seconds)
        if pull is not None:
            self._link.tell(pull)

    def executing(self, session: Session, items: Sequence[Item]) -> None:
        """A batch is about to run."""
        if items[-1].key[0] != JOBS:
            return  # jobs stand behind calls
        jobs = [item for item in items if isinstance(item, JobItem)]
        if self._begun is not None:
            self._begun.add([job.job_id for job in jobs if _is_to_be_noted(job)])
        jobs = self._without_later_pieces(jobs)
        expected_s = session.expected_s(items)
        large = any(job.large is not None for job in jobs)
        if expected_s <= LONG_S or large:  # that is of one piece; progress is told after each
            expected_s = 0.0
        if not jobs:
            return
        if large or expected_s or any(job.timeout_s is not None for job in jobs):
            self._link.tell(Began([job.key[1] for job in jobs], expected_s, time.monotonic()))

    def _without_later_pieces(self, jobs: Sequence[JobItem]) -> list[JobItem]:
        """Those that begin now; of large ones that go on, their progress is told."""
        beginning = []
        for job in jobs:
            if job.large is None or job.large.pieces == 1:
                beginning.append(job)
                continue
            now = time.monotonic()
            if now >= self._next_progress:
                self._next_progress = now + PROGRESS_EVERY_S
                self._link.tell(Told(job.key[1], Progress(job.large.fraction)))
        return beginning

    def stream(self, runtime: Runtime, items: Sequence[Item]) -> Callable[[], Outcome] | None:
        """How to execute a job whose answer comes in parts; None: this batch is none."""
        job = items[0]
        if not isinstance(job, JobItem) or job.large or not streams(runtime, job.payload):
            return None
        number = job.key[1]
        unwanted = self._stop[number] = Event()
        ends_at = inf if job.timeout_s is None else time.monotonic() + job.timeout_s

        def stop() -> bool:
            return unwanted.is_set() or time.monotonic() >= ends_at

        return partial(_run_stream, self._link, runtime, job, stop)

    def ended(self, messages: Sequence[Message], now: float) -> None:
        """The session answers jobs."""
        answers = [message for message in messages if isinstance(message, Final | Nack)]
        self._desk.ended(answers, now)
        for answer in answers:
            self._stop.pop(answer.attempt_id, None)
        self._link.pass_on()  # a stream's last words come before its end
        self._link.tell(Ended(answers, now))

    def close(self) -> None:
        """Give back what is held, and see that the store knows of all results."""
        if not self._link.close(FLUSH_S):
            log.warning("the job store does not answer: results are dropped, their jobs run again")


def _run_stream(
    link: PortLink, runtime: Runtime, job: JobItem, stop: Callable[[], bool]
) -> Outcome:
    """Execute a job in parts; on the executor's thread."""
    number = job.key[1]
    ended = run_stream(
        runtime, job.payload, lambda said: link.told.put(Told(number, said)), stop, [job]
    )
    match ended:
        case Stopped():
            return Failed(FailureKind.INPUT, ended.infer_s, "stopped")  # nobody will hear of it
        case NoAnswer():
            told = f"gave no answer: {ended.message}"
            return Failed(FailureKind.INPUT, ended.infer_s, ended.message, told)
        case _:
            return ended


def _is_to_be_noted(job: JobItem) -> bool:
    """Whether it begins, or began so long ago that its note may have been overwritten."""
    return job.large is None or job.large.pieces % NOTED_EVERY == 1


def _begin(start: Start, jobs: JobsStart, interface: ModelInterface) -> Begin:
    terms = LeaseTerms(
        start.model,
        start.revision,
        holder=start.replica,
        lease_s=jobs.lease_s,
        heartbeat_s=jobs.heartbeat_s,
        store_bytes_max=jobs.store_bytes_max,
    )
    return Begin(
        terms,
        version=start.version,
        redis_url=jobs.redis_url,
        namespace=jobs.namespace,
        blobs_url=jobs.blobs_url,
        interface=interface,
        numbers_after=0,
        inherits=False,
    )

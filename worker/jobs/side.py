"""The jobs' side of a replica's loop: between the session, the desk and the port. A thin shell.

Previous stop of a job: `worker.jobs.port`. Next: `worker.session`; then back the same way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from threading import Event

from shared.deployment import ModelInterface
from shared.jobs.blobs import BlobStore
from shared.jobs.blocking_store import BlockingJobStore, BlockingWakeUp
from shared.keys import Keys
from shared.messages import Final, Message, Nack, Request
from shared.telemetry import get_logger
from worker.batching import Item
from worker.commands import Command
from worker.control import JobsStart, Start
from worker.jobs.begun import BegunJobs
from worker.jobs.desk import BATCHES_HELD, JobDesk
from worker.jobs.messages import JOBS, Began, Ended, Fetched, FromPort, Gone, Leased
from worker.jobs.port import JobPort, Place, Told
from worker.jobs.stream import NoAnswer, Stopped, run_stream, streams
from worker.jobs.waiting_jobs import JobItem
from worker.mailbox import Mailbox
from worker.outcomes import Failed, FailureKind, Outcome
from worker.runtimes.base import Runtime
from worker.session import Session

LONG_S = 1.0
"""Executions that are expected to take longer have their progress estimated."""

SWITCH_S = 0.1e-3
"""While there are jobs, a thread that wants the interpreter gets it after so long, instead of after
Python's 5 ms. The loop gives it away with each message that it sends or reads, and would wait so
long for it each time that the port's thread is at work."""

FLUSH_S = 10.0
"""How long a replica that ends waits for a store that is away; leases end by themselves."""

log = get_logger("jobs")


class Jobs:
    """Used by the replica's loop; only the mailbox is written to by other threads.

    Args:
        start: with `jobs`.
    """

    def __init__(self, start: Start) -> None:
        self._start = start
        self._mailbox: Mailbox[FromPort] = Mailbox()
        self.wake_fd = self._mailbox.wake_fd
        self._port: JobPort | None = None
        self._desk = JobDesk(0)
        self._stop: dict[int, Event] = {}  # of the stream that runs
        self._begun: BegunJobs | None = None
        self._usual_switch_s = sys.getswitchinterval()

    def start(self, interface: ModelInterface) -> None:
        """The model is loaded: begin to lease."""
        held_max = self._start.settings.job_concurrency
        if held_max is None:
            held_max = BATCHES_HELD * max(interface.max_batch_size, 1)
        self._desk = JobDesk(held_max)
        if self._start.jobs is not None and self._start.jobs.begun_fd is not None:
            self._begun = BegunJobs(self._start.jobs.begun_fd)
        self._port = _port(self._start, interface, self._mailbox)
        self._port.start()

    def next_deadline(self, now: float) -> float:
        """When `pull` must be called at the latest."""
        deadline = self._desk.next_deadline(now)
        return inf if deadline is None else deadline

    def collect(self, session: Session, now: float) -> list[Command]:
        """Take in what the port said."""
        commands: list[Command] = []
        for message in self._mailbox.collect():
            self._desk.heard(message, now)
            match message:
                case Leased():
                    sys.setswitchinterval(SWITCH_S if message.numbers else self._usual_switch_s)
                    commands += session.jobs_arrived(message.jobs, now)
                case Fetched():
                    commands += session.jobs_arrived([message.job], now)
                case Gone():
                    if session.job_gone(message.number, now):
                        self._desk.left(message.number)
                    elif message.number in self._stop:
                        self._stop[message.number].set()
                case _:
                    pass
        return commands

    def pull(self, session: Session, now: float) -> None:
        """Lease more if there is room."""
        if self._port is None or not self._desk.wants(now):
            return
        pull = self._desk.pull(session.busyness(), now)
        if pull is not None:
            self._port.tell(pull)

    def executing(self, session: Session, items: Sequence[Item]) -> None:
        """A batch is about to run."""
        if items[-1].key[0] != JOBS or self._port is None:
            return  # jobs stand behind calls
        jobs = [item for item in items if isinstance(item, JobItem)]
        if self._begun is not None:
            self._begun.add([job.job_id for job in jobs])
        expected_s = session.expected_s(items)
        if expected_s <= LONG_S:
            expected_s = 0.0
        if expected_s or any(job.timeout_s is not None for job in jobs):
            self._port.tell(Began([job.key[1] for job in jobs], expected_s, time.monotonic()))

    def stream(self, runtime: Runtime, items: Sequence[Item]) -> Callable[[], Outcome] | None:
        """How to execute a job whose answer comes in parts; None: this batch is none."""
        job = items[0]
        if not isinstance(job, JobItem) or self._port is None or not streams(runtime, job.payload):
            return None
        number = job.key[1]
        unwanted = self._stop[number] = Event()
        ends_at = inf if job.timeout_s is None else time.monotonic() + job.timeout_s

        def stop() -> bool:
            return unwanted.is_set() or time.monotonic() >= ends_at

        return partial(_run_stream, self._port, runtime, number, job.payload, stop)

    def ended(self, messages: Sequence[Message], now: float) -> None:
        """The session answers jobs."""
        answers = [message for message in messages if isinstance(message, Final | Nack)]
        self._desk.ended(answers, now)
        for answer in answers:
            self._stop.pop(answer.attempt_id, None)
        if self._port is not None:
            self._port.tell(Ended(answers, now))

    def close(self) -> None:
        """Give back what is held, and see that the store knows of all results."""
        if self._port is not None and not self._port.close(FLUSH_S):
            log.warning("the job store does not answer: results are dropped, their jobs run again")


def _run_stream(
    port: JobPort, runtime: Runtime, number: int, request: Request, stop: Callable[[], bool]
) -> Outcome:
    """Execute a job in parts; on the executor's thread."""
    ended = run_stream(runtime, request, lambda said: port.tell(Told(number, said)), stop)
    match ended:
        case Stopped():
            return Failed(FailureKind.INPUT, ended.infer_s, "stopped")  # nobody will hear of it
        case NoAnswer():
            told = f"gave no answer: {ended.message}"
            return Failed(FailureKind.INPUT, ended.infer_s, ended.message, told)
        case _:
            return ended


def _port(start: Start, interface: ModelInterface, mailbox: Mailbox[FromPort]) -> JobPort:
    jobs = start.jobs
    assert isinstance(jobs, JobsStart)
    keys = Keys(jobs.namespace)
    whose = (start.model, start.revision, start.replica)
    place = Place(*whose, jobs.lease_s, jobs.heartbeat_s, jobs.store_bytes_max)
    store = BlockingJobStore(jobs.redis_url, keys)
    wake_up = BlockingWakeUp(jobs.redis_url, keys.job_queue(start.model, start.revision))
    cancels = BlockingWakeUp(jobs.redis_url, keys.job_holder(start.replica))
    blobs = BlobStore(jobs.blobs_url, jobs.namespace) if jobs.blobs_url else None
    return JobPort(place, interface, store, wake_up, cancels, blobs, mailbox)

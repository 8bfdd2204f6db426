"""Threads beside a replica's loop, where all waiting for the job store happens.

The port's thread leases, keeps leases by heartbeats, and ends them. It is apart from the loop, so
that a loop which runs a batch itself, or waits for the interpreter, keeps its leases, and a store
that is slow or away stops no call. All that is due leaves in one pipeline. Two threads wait for
hints (of new jobs, and of cancels), a fourth moves blobs, so that none delays a heartbeat.

While the store is away, what it is owed waits here and is sent again and again; a call that is sent
twice happens once. That is bounded: a replica holds so many jobs, and leases no more meanwhile.

Nothing is shared by threads but mailboxes and queues. Previous stop of a job: the job store. Next:
`worker.replica`, and back from there with its answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Protocol, TypeAlias

from shared.deployment import ModelInterface
from shared.errors import ErrorCode, StateStoreError, StoreFullError, WireError
from shared.ids import new_request_id
from shared.jobs import calls
from shared.jobs.answers import Beat, Progress
from shared.jobs.answers import Leased as LeasedFromStore
from shared.jobs.calls import Call
from shared.jobs.durability import Durability
from shared.jobs.payload import RESULT_TYPE, OtherVersionError, unpack_input
from shared.jobs.record import Content, JobRecord, JobState
from shared.messages import Failure, Final, Nack, NackReason, Request
from shared.records import record
from shared.telemetry import get_logger
from worker.jobs.blob_carrier import (
    NO_ROOM,
    BlobCarrier,
    Blobs,
    Carried,
    Loaded,
    OutputStored,
    Stored,
)
from worker.jobs.fitting import misfit
from worker.jobs.leases import Leases, Output
from worker.jobs.messages import (
    Began,
    Ended,
    Fetched,
    FromPort,
    Gone,
    Hinted,
    Job,
    Leased,
    Leave,
    Pull,
    ToPort,
)
from worker.mailbox import Mailbox

RETRY_S = 0.1
RETRY_S_MAX = 2.0
"""Waits between tries while the store is away, doubling from the first to the last."""

LOOK_S = 5.0
"""How long without a hint until the queue is looked at all the same: a hint may be lost."""

ERRORS_MAX = 20
"""Times that the store, being there, may refuse the same call. What ends a lease is sent for as
long as the store answers its heartbeats."""

LEASE_WAIT_S = 1.0
"""How long who leaves asks what it was leased by a call that got no answer; then the leases end by
themselves."""

OTHER_VERSION_S = 5.0
"""How long a job is held whose input this replica cannot read: it is given back for another one,
and would come again at once."""

OUTPUTS_WAIT_S = 3.0
"""How long an answered job waits for its large outputs to be stored, so that they can be told."""

log = get_logger("jobs")


class Store(Protocol):
    """Of `shared.jobs.blocking_store.BlockingJobStore`, what is used here."""

    def run_many(self, calls: Sequence[Call[Any]]) -> list[Any]:
        """For each call its answer, or its own error; raises StateStoreError without the store."""
        ...

    def durability(self) -> Durability:
        """What the server's acknowledgements are worth; raises StateStoreError without it."""
        ...


class WakeUp(Protocol):
    """Of `shared.jobs.blocking_store.BlockingWakeUp`, what is used here."""

    def wait(self, timeout_s: float) -> bool:
        """Wait for a hint, or so long."""
        ...


@dataclass(frozen=True)
class Place:
    """Whose jobs are leased, by whom, how long without a heartbeat; how much the store holds."""

    model: str
    revision: str
    holder: str
    lease_s: float
    heartbeat_s: float
    store_bytes_max: int


@record
class Told:
    """A model that is being executed said something; any thread may say so."""

    number: int
    said: Progress | Output


@record
class _BeatSoon:
    """A job that is held may be wanted no more."""


_Inbox: TypeAlias = ToPort | Told | Carried | _BeatSoon


@dataclass
class _Owed:
    """A call that the store has not answered, and what is to be done with its answer.

    Attributes:
        if_full: what is to be done instead where the store has no room.
        errors: how often the store was there, and could not carry it out.
        ends: the lease that it ends.
        sent: whether it may have reached the store.
    """

    call: Call[Any]
    then: Callable[[Any], None]
    if_full: Callable[[], None] | None = None
    errors: int = 0
    ends: int | None = None
    sent: bool = False

    @property
    def is_lease(self) -> bool:
        """Whether it asks for more jobs."""
        return self.call.script == "lease"


class JobPort:
    """See the module's docstring.

    Args:
        place: whose jobs.
        interface: of the model, which their inputs must fit.
        store, wake_up, cancels: connections to the job store, one for each thread; the latter two
            for hints of new jobs, and of jobs of this holder that are to be canceled.
        blobs: where large inputs and results lie; None: nowhere.
        to_loop: takes what the loop is to know.
    """

    def __init__(
        self,
        place: Place,
        interface: ModelInterface,
        store: Store,
        wake_up: WakeUp,
        cancels: WakeUp,
        blobs: Blobs | None,
        to_loop: Mailbox[FromPort],
    ) -> None:
        self._place = place
        self._interface = interface
        self._store = store
        self._wake_up = wake_up
        self._cancels = cancels
        self._to_loop = to_loop
        self._inbox: queue.SimpleQueue[_Inbox] = queue.SimpleQueue()
        self._listen: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._carrier = BlobCarrier(blobs, self._inbox.put)
        self._leases = Leases(place.lease_s, place.heartbeat_s, place.store_bytes_max)
        self._owed: list[_Owed] = []
        self._durability: Durability | None = None
        self._retry_at = 0.0
        self._retry_s = RETRY_S
        self._away = False
        self._leaving = False
        self._leaves_at = inf
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Start the threads; they end with the process, or by `close`."""
        self._thread.start()
        threading.Thread(target=self._hear, name="job-hints", daemon=True).start()
        threading.Thread(target=self._hear_cancels, name="job-cancels", daemon=True).start()
        self._carrier.start()

    def tell(self, message: ToPort | Told) -> None:
        """Something for the port to do. Any thread may call this."""
        self._inbox.put(message)

    def close(self, timeout_s: float) -> bool:
        """Give back what is held and tell what is owed; False if that took too long."""
        self.tell(Leave())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # The threads for hints

    def _hear(self) -> None:
        while True:
            self._listen.get()
            self._wake_up.wait(LOOK_S)
            self._to_loop.put(Hinted())

    def _hear_cancels(self) -> None:
        while True:
            if self._cancels.wait(LOOK_S):
                self._inbox.put(_BeatSoon())

    # The thread for everything else

    def _run(self) -> None:
        while not self._leaving or self._owed or len(self._leases):
            before = time.monotonic()  # whatever came until now is taken below
            for message in self._receive():
                self._take(message, time.monotonic())
            for answer in self._leases.overdue(before):
                self._end(answer.attempt_id, answer, before)
                if isinstance(answer, Nack):
                    self._to_loop.put(Gone(answer.attempt_id))
            if time.monotonic() >= self._retry_at:
                self._send()
            if time.monotonic() >= self._leaves_at:
                self._owed = [each for each in self._owed if not each.is_lease]

    def _receive(self) -> list[_Inbox]:
        """What came; waits for it until something else is due."""
        due = 0.0 if self._owed else self._leases.next_due()
        timeout_s = None
        if due is not None:
            timeout_s = max(due, self._retry_at) - time.monotonic()
        messages: list[_Inbox] = []
        with suppress(queue.Empty):
            if timeout_s is None or timeout_s > 0:
                messages.append(self._inbox.get(timeout=timeout_s))
            while True:
                messages.append(self._inbox.get_nowait())
        return messages

    def _take(self, message: _Inbox, now: float) -> None:
        match message:
            case Pull():
                self._pull(message)
            case Ended():
                for answer in message.answers:
                    self._end(answer.attempt_id, self._leases.judged(answer, message.at), now)
            case Began():
                self._leases.began(message.numbers, message.expected_s, message.at)
            case Told():
                self._told(message, now)
            case _BeatSoon():
                self._leases.beat_soon(now)
            case OutputStored():
                self._output_stored(message, now)
            case Loaded():
                self._loaded(message, now)
            case Stored():
                self._stored(message)
            case Leave():
                self._leaving, self._leaves_at = True, now + LEASE_WAIT_S
                self._owed = [each for each in self._owed if each.sent or not each.is_lease]
                for number in self._leases.numbers:
                    if not (self._leases[number].ending or self._leases[number].answered):
                        self._give_back(number)

    def _owe(self, call: Call[Any], then: Callable[[Any], None]) -> None:
        self._owed.append(_Owed(call, then))

    def _owe_end(self, number: int, call: Call[JobState | None]) -> None:
        self._owed.append(_Owed(call, partial(self._ended, number), ends=number))

    # What the store is asked

    def _send(self) -> None:
        """All that is due, and what is made of the answers."""
        now = time.monotonic()
        owed, self._owed = self._owed, []
        beats = [
            _Owed(self._leases.beat(number, now), partial(self._beaten, number))
            for number in self._leases.due(now)
        ]
        if not owed and not beats:
            return
        try:
            answers = self._ask([each.call for each in (*owed, *beats)])
        except StateStoreError as error:
            for each in owed:
                each.sent = True
            self._owed = owed
            self._store_is_away(error)
            return
        failed = False
        for at, (each, answer) in enumerate(zip((*owed, *beats), answers, strict=True)):
            if isinstance(answer, StoreFullError) and each.if_full is not None:
                each.if_full()
            elif isinstance(answer, Exception):
                failed = True
                self._refused(each, answer, keep=at < len(owed))
            else:
                each.then(answer)
        if failed:
            self._back_off()
        else:
            self._store_is_back()

    def _ask(self, wanted: Sequence[Call[Any]]) -> list[Any]:
        """Answers, in order: in one go, unless some take long that others need not wait for."""
        if self._durability is None:
            self._durability = self._store.durability()
        if self._durability is not Durability.ASKED or len({call.durable for call in wanted}) < 2:
            return self._store.run_many(wanted)
        answers: dict[int, Any] = {}
        for durable in (False, True):
            places = [at for at, call in enumerate(wanted) if call.durable is durable]
            part = self._store.run_many([wanted[at] for at in places])
            answers.update(zip(places, part, strict=True))
        return [answers[at] for at in range(len(wanted))]

    def _refused(self, owed: _Owed, error: Exception, *, keep: bool) -> None:
        """The store is there, and did not carry this out."""
        owed.errors += 1
        goes_on = owed.errors < ERRORS_MAX or self._is_kept(owed.ends)
        if keep and isinstance(error, StateStoreError) and goes_on:
            self._owed.append(owed)
            return
        log.warning("the job store refused a call", call=owed.call.script, error=str(error))
        if owed.ends is not None:
            self._leases.drop(owed.ends)  # it ends by itself
        if keep:
            owed.then(None)

    def _is_kept(self, number: int | None) -> bool:
        """Whether the store answers a lease's heartbeats."""
        if number is None or number not in self._leases:
            return False
        return time.monotonic() - self._leases[number].next_beat < self._place.lease_s

    def _store_is_away(self, error: StateStoreError) -> None:
        self._durability = None  # the next connection may lead to another server
        self._back_off()
        if not self._away:
            self._away = True
            held = len(self._leases)
            log.warning("the job store does not answer", held=held, error=error.message)

    def _back_off(self) -> None:
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S_MAX)

    def _store_is_back(self) -> None:
        self._retry_s = RETRY_S
        if self._away:
            self._away = False
            log.info("the job store answers again", held=len(self._leases))

    # Leasing

    def _pull(self, pull: Pull) -> None:
        if self._leaving:
            return
        place = self._place
        call = calls.lease(
            place.model,
            place.revision,
            place.holder,
            new_request_id(),
            most=pull.most,
            lease_ms=int(place.lease_s * 1000),
            idle=pull.idle,
        )
        self._owe(call, partial(self._leased, pull))

    def _leased(self, pull: Pull, answer: LeasedFromStore | None) -> None:
        leased = answer.jobs if answer is not None else []
        now = time.monotonic()
        numbers = self._leases.add(leased, now)
        if self._leaving:
            for number in numbers:
                self._give_back(number)
            return
        jobs = []
        for number, each in zip(numbers, leased, strict=True):
            if each.body is not None:
                job = self._read(number, each.body, now)
                jobs += [job] if job is not None else []
            elif each.record.payload is not None:
                self._carrier.load(number, each.record.payload.blob)
        held = [number for number in numbers if not self._leases[number].ending]
        alone = any(each.record.deaths for each in leased)
        more = bool(leased) and (alone or len(leased) >= pull.most)
        suspects = answer is not None and answer.suspects_waiting > 0
        self._to_loop.put(Leased(held, jobs, more, suspects))
        if not more and not suspects:
            self._listen.put(None)

    def _read(self, number: int, body: bytes, now: float) -> Job | None:
        """A job of its input; None if that is of no use here, which ends the lease, soon or now."""
        lease = self._leases[number]
        try:
            read = unpack_input(body)
        except OtherVersionError as error:
            log.warning("a job is left to other replicas", job=lease.record.id, reason=str(error))
            given_back = Nack(number, NackReason.DRAINING)
            lease.ends_at, lease.ends_as = now + OTHER_VERSION_S, given_back
            return None
        except WireError as error:
            failure = Failure(ErrorCode.INTERNAL, f"the job's input cannot be read: {error}")
            self._end(number, Final(number, failure=failure), now)
            return None
        reason = self._misfit(lease.record, read.request)
        if reason:
            failure = Failure(ErrorCode.INVALID_INPUT, reason)
            self._end(number, Final(number, failure=failure), now)
            return None
        lease.client_id = read.client_id
        wanted = lease.record
        request = replace(
            read.request,
            attempt_id=number,
            priority=wanted.job.priority,
            suspect=wanted.deaths > 0,
            traceparent="",
        )
        timeout_ms = wanted.job.timeout_ms
        return Job(number, request, timeout_ms / 1000 if timeout_ms else None, wanted.id)

    def _misfit(self, job: JobRecord, request: Request) -> str:
        """Why a job that another version was meant for is none for this one; else empty."""
        reason = misfit(request, self._interface) if job.moved_from else ""
        if not reason:
            return ""
        before, now = job.moved_from, job.job.version
        return f"submitted for version {before!r}, the input does not fit version {now!r}: {reason}"

    def _loaded(self, loaded: Loaded, now: float) -> None:
        number = loaded.number
        if number not in self._leases or self._leases[number].ending:
            return
        if isinstance(loaded.data, Failure):
            self._end(number, Final(number, failure=loaded.data), now)
            self._to_loop.put(Gone(number))
            return
        job = self._read(number, loaded.data, now)
        if job is not None:
            self._to_loop.put(Fetched(job))
        elif self._leases[number].ending:
            self._to_loop.put(Gone(number))

    # Keeping and ending leases

    def _told(self, told: Told, now: float) -> None:
        if isinstance(told.said, Progress) or told.number not in self._leases:
            self._leases.told(told.number, told.said, now)
            return
        if len(told.said[1]) <= calls.OUTPUT_BYTES_MAX:
            self._leases.told(told.number, told.said, now)
            return
        self._store_output(told.number, told.said)

    def _store_output(self, number: int, output: Output) -> None:
        content, body = output
        lease = self._leases[number]
        if lease.ending:
            return
        lease.uploads += 1
        self._carrier.store_output(number, lease.record.id, content.media_type, body)

    def _output_stored(self, stored: OutputStored, now: float) -> None:
        """A large output can be told, or was dropped."""
        if stored.number not in self._leases:
            return  # lost meanwhile; the sweep of blobs finds it
        lease = self._leases[stored.number]
        lease.uploads -= 1
        if stored.content is not None:
            self._leases.told(stored.number, (stored.content, b""), now)
        if lease.answered and not lease.uploads and lease.ends_as is not None:
            self._end(stored.number, lease.ends_as, now)

    def _beaten(self, number: int, answer: Beat) -> None:
        if answer is Beat.FULL:
            for output in self._leases.not_kept(number):
                self._store_output(number, output)
        unwanted = self._leases.beaten(number, answer, time.monotonic())
        if not unwanted:
            return
        self._to_loop.put(Gone(number))
        if answer is Beat.LOST:
            self._leases.drop(number)
        elif not self._leases[number].ending:
            self._give_back(number)

    def _give_back(self, number: int) -> None:
        self._leases[number].ending = True
        self._owe_end(number, self._leases.release(number))

    def _end(self, number: int, answer: Final | Nack, now: float) -> None:
        """The loop is done with a job."""
        if number not in self._leases or self._leases[number].ending:
            return  # canceled, or lost
        lease = self._leases[number]
        if isinstance(answer, Nack):
            self._give_back(number)
            return
        if lease.uploads and not lease.answered:
            lease.answered, lease.ends_at, lease.ends_as = True, now + OUTPUTS_WAIT_S, answer
            return
        lease.ending = True
        for beat in self._leases.last_beats(number, now):
            self._owe(beat, partial(self._beaten, number))
        if answer.failure is not None:
            self._owe_end(number, self._leases.fail(number, answer.failure))
            return
        body = self._leases.result(number, answer)
        if len(body) > calls.INLINE_BYTES_MAX:
            self._carrier.store(number, lease.record.id, body)
            return
        commit = self._leases.commit(number, Content(RESULT_TYPE, len(body)), body)
        if_full = partial(self._store_is_full, number, body)
        self._owed.append(_Owed(commit, partial(self._ended, number), if_full, ends=number))

    def _store_is_full(self, number: int, body: bytes) -> None:
        """The store has no room for a result."""
        if number not in self._leases:
            return  # lost meanwhile
        if self._carrier.has_blobs:
            self._carrier.store(number, self._leases[number].record.id, body)
        else:
            self._owe_end(number, self._leases.fail(number, NO_ROOM))

    def _stored(self, stored: Stored) -> None:
        """A large result lies where it can be fetched, or nowhere."""
        number = stored.number
        if number not in self._leases:
            return  # lost meanwhile; the sweep of blobs finds it
        if isinstance(stored.name, Failure):
            call = self._leases.fail(number, stored.name)
        else:
            content = Content(RESULT_TYPE, stored.size, stored.name)
            call = self._leases.commit(number, content, b"")
        self._owe_end(number, call)

    def _ended(self, number: int, state: JobState | None) -> None:
        """The store has taken note of the end; None: it was no longer ours."""
        if state is None and number in self._leases:
            log.warning("a job was lost to another", job=self._leases[number].record.id)
        self._leases.drop(number)

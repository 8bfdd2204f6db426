"""What waits for the job store, for a replica: leases jobs, keeps the leases, ends them.

It runs in a process beside the replica's (`penstock.worker.job_port.__main__`), so that a loop
which runs a batch itself, or a model that holds the interpreter, costs no lease; and neither a
store that is slow nor the reading and writing of jobs takes anything from calls. One thread does
all that, and all that is due leaves in one pipeline. Others wait for hints and move blobs, so that
neither delays a heartbeat.

While the store is away, what it is owed waits (`penstock.worker.job_port.store_calls`). That is
bounded: a replica holds so many jobs, and leases no more meanwhile.

Nothing is shared by threads but queues. Previous stop of a job: the job store. Next:
`penstock.worker.jobs.port_link`, over `penstock.worker.job_line.wire`, and back from there with
its answer.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, TypeAlias

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.ids import new_request_id
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import Beat, LeasedJobs, Progress
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.payload import RESULT_TYPE
from penstock.shared.jobs.record import Content, JobState
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.messages import Failure, Final, Nack, NackReason
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer
from penstock.worker.job_line.messages import (
    Began,
    Ended,
    FromPort,
    Gone,
    Hinted,
    InputFetched,
    Job,
    Leased,
    LeaseTerms,
    Leave,
    Output,
    Pull,
    Told,
    ToPort,
)
from penstock.worker.job_port.blob_carrier import (
    NO_ROOM,
    BlobCarrier,
    BlobLoaded,
    Carried,
    OutputStored,
    PortBlobs,
    Stored,
)
from penstock.worker.job_port.hints import Hints, WakeUp
from penstock.worker.job_port.inputs import Read, Unreadable, read_input
from penstock.worker.job_port.leases import Leases
from penstock.worker.job_port.store_calls import BlockingStore, OwedCall, StoreCalls

LEASE_WAIT_S = 1.0
"""How long who leaves asks what it was leased by a call that got no answer; then the leases end by
themselves."""

OTHER_VERSION_S = 5.0
"""How long a job is held whose input this replica cannot read: it is given back for another one,
and would come again at once."""

OUTPUTS_WAIT_S = 3.0
"""How long an answered job waits for its large outputs to be stored, so that they can be told."""

log = get_logger("jobs")


@record
class _BeatSoon:
    """A job that is held may be wanted no more."""


_Inbox: TypeAlias = ToPort | Carried | _BeatSoon


class JobPort:
    """See the module's docstring.

    Args:
        terms: whose jobs, by whom, for how long.
        interface: of the model, which their inputs must fit.
        store, wake_up, cancels: connections to the job store, one for each thread; the latter two
            for hints of new jobs, and of jobs of this holder that are to be canceled.
        blobs: where large inputs and results lie; None: nowhere.
        to_loop: takes what the loop is to know; must not block.
        numbers_after: jobs have higher numbers than this.
        inherits: another port led this holder's jobs, and died: they return first of all.
    """

    def __init__(
        self,
        terms: LeaseTerms,
        interface: ModelInterface,
        store: BlockingStore,
        wake_up: WakeUp,
        cancels: WakeUp,
        blobs: PortBlobs | None,
        to_loop: Callable[[FromPort], None],
        *,
        numbers_after: int = 0,
        inherits: bool = False,
    ) -> None:
        self._terms = terms
        self._interface = interface
        self._to_loop = to_loop
        self._inbox: queue.SimpleQueue[_Inbox] = queue.SimpleQueue()
        hints = (lambda: to_loop(Hinted()), lambda: self._inbox.put(_BeatSoon()))
        self._hints = Hints(wake_up, cancels, *hints)
        self._carrier = BlobCarrier(blobs, self._inbox.put)
        self._leases = Leases(
            terms.lease_s, terms.heartbeat_s, terms.store_bytes_max, numbers_after
        )
        self._calls = StoreCalls(store, self._leases, terms.lease_s)
        self._inherits = inherits
        self._pulled: Pull | None = None  # while the jobs of the port before return
        self._leaving = False
        self._leaves_at = inf
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Start the threads; they end with the process; the port's own when it has left."""
        if self._inherits:
            self._owe(calls.lose(self._terms.holder, ()), self._returned)
        self._thread.start()
        self._hints.start()
        self._carrier.start()

    def tell(self, message: ToPort) -> None:
        """Something for the port to do. Any thread may call this."""
        self._inbox.put(message)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has left, as it was told to; False if that took too long."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._leaving or len(self._calls) or len(self._leases):
            before = time.monotonic()  # whatever came until now is taken below
            for message in self._receive():
                self._take(message, time.monotonic())
            for answer in self._leases.overdue(before):
                self._end(answer.attempt_id, answer, before)
                if isinstance(answer, Nack):
                    self._to_loop(Gone(answer.attempt_id))
            now = time.monotonic()
            if now >= self._calls.retry_at:
                self._send(now)
            if now >= self._leaves_at:
                self._calls.give_up_leasing(also_sent=True)

    def _receive(self) -> list[_Inbox]:
        """What came; waits for it until something else is due."""
        due = 0.0 if len(self._calls) else self._leases.next_due()
        timeout_s = None
        if due is not None:
            timeout_s = max(due, self._calls.retry_at) - time.monotonic()
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
            case BlobLoaded():
                self._loaded(message, now)
            case Stored():
                self._stored(message)
            case Leave():
                self._leave(now)

    def _leave(self, now: float) -> None:
        self._leaving, self._leaves_at = True, now + LEASE_WAIT_S
        self._calls.give_up_leasing(also_sent=False)
        for number in self._leases.numbers:
            if not (self._leases[number].ending or self._leases[number].answered):
                self._give_back(number)

    def _owe(self, call: Call[Any], then: Callable[[Any], None]) -> None:
        self._calls.owe(OwedCall(call, then))

    def _owe_end(self, number: int, call: Call[JobState | None]) -> None:
        self._calls.owe(OwedCall(call, partial(self._ended, number), ends=number))

    def _send(self, now: float) -> None:
        """All that is due."""
        leases = self._leases
        beats = [OwedCall(leases.beat(n, now), partial(self._beaten, n)) for n in leases.due(now)]
        self._calls.send(beats)

    # Leasing

    def _returned(self, _: object) -> None:
        """What the port before held is in the queue again, where it did not end."""
        self._inherits = False
        if self._pulled is not None:
            self._pull(self._pulled)

    def _pull(self, pull: Pull) -> None:
        if self._leaving:
            return
        if self._inherits:  # sent again, that call would take back what is leased with it
            self._pulled = pull
            return
        terms = self._terms
        call = calls.lease(
            terms.model,
            terms.revision,
            terms.holder,
            new_request_id(),
            most=pull.most,
            lease_ms=int(terms.lease_s * 1000),
            idle=pull.idle,
        )
        self._owe(call, partial(self._leased, pull))

    def _leased(self, pull: Pull, answer: LeasedJobs | None) -> None:
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
        self._to_loop(Leased(held, jobs, more, suspects))
        if not more and not suspects:
            self._hints.listen()

    def _read(self, number: int, body: bytes, now: float) -> Job | None:
        """A job of its input; None if that is of no use here, which ends the lease, soon or now."""
        lease = self._leases[number]
        match read_input(number, lease.record, body, self._interface):
            case Read() as read:
                lease.client_id = read.client_id
                return read.job
            case Unreadable() as unreadable:
                reason = unreadable.reason
                log.warning("a job is left to other replicas", job=lease.record.id, reason=reason)
                given_back = Nack(number, NackReason.DRAINING)
                lease.ends_at, lease.ends_as = now + OTHER_VERSION_S, given_back
            case failure:
                self._end(number, Final(number, failure=failure), now)
        return None

    def _loaded(self, loaded: BlobLoaded, now: float) -> None:
        number = loaded.number
        if number not in self._leases or self._leases[number].ending:
            return
        if isinstance(loaded.data, Failure):
            self._end(number, Final(number, failure=loaded.data), now)
            self._to_loop(Gone(number))
            return
        job = self._read(number, loaded.data, now)
        if job is not None:
            self._to_loop(InputFetched(job))
        elif self._leases[number].ending:
            self._to_loop(Gone(number))

    # Keeping and ending leases

    def _told(self, told: Told, now: float) -> None:
        if isinstance(told.said, Progress) or told.number not in self._leases:
            self._leases.model_said(told.number, told.said, now)
            return
        if len(told.said[1]) <= calls.OUTPUT_BYTES_MAX:
            self._leases.model_said(told.number, told.said, now)
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
            self._leases.model_said(stored.number, (stored.content, b""), now)
        if lease.answered and not lease.uploads and lease.ends_as is not None:
            self._end(stored.number, lease.ends_as, now)

    def _beaten(self, number: int, answer: Beat) -> None:
        if answer is Beat.FULL:
            for output in self._leases.not_kept(number):
                self._store_output(number, output)
        unwanted = self._leases.beaten(number, answer, time.monotonic())
        if not unwanted:
            return
        self._to_loop(Gone(number))
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
        self._calls.owe(OwedCall(commit, partial(self._ended, number), if_full, ends=number))

    def _store_is_full(self, number: int, body: Buffer) -> None:
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

"""The leases that a replica holds, and the calls by which it keeps and ends them. Pure.

Theory. A lease is kept by heartbeats from the moment it is given until its end has been answered,
also while its end waits for a store that is away. A heartbeat has a number, and what it tells
(progress, outputs) is fixed with it: sent again after an error, it is the same heartbeat, which the
store counts once.

A client may say how long its job may be executed. When that is over, the job has failed, and no
other attempt would help; what its execution still comes to is dropped.

Progress comes from the model where it tells any. Else, of an execution whose duration is known from
others, it is the share of that which has passed, said to be an estimate; it stops at
`ESTIMATE_MAX`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import Beat, JobWithBytes, Progress
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.payload import JobResult, pack_result
from penstock.shared.jobs.record import Content, JobRecord, JobState
from penstock.shared.wire.messages import Failure, Final, Nack
from penstock.shared.wire.tensors import Buffer
from penstock.worker.job_line.messages import Output

ESTIMATE_MAX = 0.95
"""An estimate says that an execution is nearly over, never that it is."""

OUTPUTS_MAX = 256
"""Outputs that wait for the next heartbeat; the store keeps no more events of a job either."""

OUTPUT_GAP_S = 0.2
"""What cannot wait for the next heartbeat is told and asked at once, but not more often than this:
outputs, progress, and whether a job is still wanted."""

RETRYABLE = frozenset({ErrorCode.OUT_OF_MEMORY, ErrorCode.UNAVAILABLE, ErrorCode.STORE_FULL})
"""Failures after which another attempt, perhaps elsewhere, may go better."""


@dataclass
class _Beat:
    """A heartbeat that the store has not answered."""

    number: int
    progress: Progress | None
    outputs: tuple[Output, ...]


@dataclass
class JobLease:
    """One job that is held.

    Attributes:
        record: as it was leased.
        client_id: what the client called its request; known once the input was read.
        ending: what ends it is under way.
        next_beat: monotonic time.
        ends_at: when it ends by itself as `ends_as`, in monotonic time.
        uploads: outputs that are on their way to the blob store.
        answered: its job was answered, which only waits for them.
    """

    record: JobRecord
    next_beat: float
    client_id: str = ""
    ending: bool = False
    ends_at: float = inf
    ends_as: Final | Nack | None = None
    uploads: int = 0
    answered: bool = False
    began: float | None = None
    expected_s: float = 0.0
    progress: Progress | None = None
    outputs: deque[Output] = field(default_factory=lambda: deque(maxlen=OUTPUTS_MAX))
    beats: int = 0
    unanswered: _Beat | None = None
    beat_at: float = 0.0


class Leases:
    """See the module's docstring.

    Args:
        lease_s: how long a lease lasts without a heartbeat.
        heartbeat_s: how often it is kept.
        bytes_max: most that the store may hold; of `StoreLimits`.
        numbers_after: jobs have higher numbers than this.
    """

    def __init__(
        self,
        lease_s: float,
        heartbeat_s: float,
        bytes_max: int = calls.DEFAULT_LIMITS.bytes_max,
        numbers_after: int = 0,
    ) -> None:
        self._lease_ms = int(lease_s * 1000)
        self._heartbeat_s = heartbeat_s
        self._bytes_max = bytes_max
        self._leases: dict[int, JobLease] = {}
        self._last = numbers_after

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, number: int) -> bool:
        return number in self._leases

    def __getitem__(self, number: int) -> JobLease:
        return self._leases[number]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of all that are held, oldest first."""
        return tuple(self._leases)

    def add(self, jobs: Sequence[JobWithBytes], now: float) -> list[int]:
        """Jobs were leased; the numbers they have here."""
        numbers = range(self._last + 1, self._last + 1 + len(jobs))
        self._last += len(jobs)
        for number, job in zip(numbers, jobs, strict=True):
            self._leases[number] = JobLease(job.record, now + self._heartbeat_s)
        return list(numbers)

    def drop(self, number: int) -> None:
        """A lease has ended."""
        self._leases.pop(number, None)

    def began(self, numbers: Sequence[int], expected_s: float, at: float) -> None:
        """Jobs are being executed, which is expected to take so long; 0: not known."""
        for number in numbers:
            lease = self._leases.get(number)
            if lease is None or lease.ending:
                continue
            lease.began, lease.expected_s = at, expected_s
            timeout_ms = lease.record.job.timeout_ms
            if timeout_ms:
                message = f"its execution took longer than its timeout, {timeout_ms} ms"
                failure = Failure(ErrorCode.DEADLINE_EXCEEDED, message)
                lease.ends_at, lease.ends_as = (
                    at + timeout_ms / 1000,
                    Final(number, failure=failure),
                )

    def judged(self, answer: Final | Nack, at: float) -> Final | Nack:
        """An answer that came then, or what the job had come to before it."""
        lease = self._leases.get(answer.attempt_id)
        if lease is None or lease.ends_as is None or isinstance(answer, Nack) or at < lease.ends_at:
            return answer
        return lease.ends_as

    def overdue(self, now: float) -> list[Final | Nack]:
        """Of leases that end by themselves now, what their jobs came to."""
        return [
            lease.ends_as
            for lease in self._leases.values()
            if lease.ends_as is not None and lease.ends_at <= now and not lease.ending
        ]

    def told(self, number: int, said: Progress | Output, now: float) -> None:
        """A model that is being executed said something."""
        lease = self._leases.get(number)
        if lease is None or lease.ending:
            return
        if isinstance(said, Progress):
            lease.progress = said
        else:
            lease.outputs.append(said)
        _hasten(lease, now)

    # Heartbeats

    def beat_soon(self, now: float) -> None:
        """One of the jobs may be wanted no more: ask, of all of them."""
        for lease in self._leases.values():
            _hasten(lease, now)

    def next_due(self) -> float | None:
        """When a heartbeat is due, or a lease ends by itself; None: nothing is held."""
        return min(
            (
                lease.next_beat if lease.ending else min(lease.next_beat, lease.ends_at)
                for lease in self._leases.values()
            ),
            default=None,
        )

    def due(self, now: float) -> list[int]:
        """Leases that are to be kept now."""
        return [number for number, lease in self._leases.items() if lease.next_beat <= now]

    def beat(self, number: int, now: float) -> Call[Beat]:
        """The heartbeat that is to be sent, or sent again."""
        lease = self._leases[number]
        if lease.unanswered is None:
            progress = lease.progress or _estimate(lease, now)
            lease.unanswered = _Beat(lease.beats + 1, progress, tuple(lease.outputs))
            lease.progress = None
            lease.outputs.clear()
        beat = lease.unanswered
        arguments = (lease.record.id, lease.record.token, beat.number, self._lease_ms)
        told = (beat.progress, beat.outputs)
        return calls.heartbeat(*arguments, *told, bytes_max=self._bytes_max)

    def not_kept(self, number: int) -> list[Output]:
        """Outputs of the unanswered heartbeat that a full store did not keep, and that may still be
        told as blobs.
        """
        lease = self._leases.get(number)
        if lease is None or lease.ending or lease.unanswered is None:
            return []
        outputs = lease.unanswered.outputs
        return [(content, body) for content, body in outputs if len(body) > calls.SMALL_BYTES]

    def beaten(self, number: int, answer: Beat, now: float) -> bool:
        """The store answered a heartbeat; whether the job is wanted no more."""
        lease = self._leases.get(number)
        if lease is None:
            return False
        if lease.unanswered is not None:
            lease.beats, lease.unanswered = lease.unanswered.number, None
        lease.beat_at, lease.next_beat = now, now + self._heartbeat_s
        return answer in (Beat.CANCEL, Beat.LOST)

    def last_beats(self, number: int, now: float) -> list[Call[Beat]]:
        """Heartbeats, in order, that tell all outputs which the store was not told of."""
        lease = self._leases[number]
        last = []
        if lease.unanswered is not None and lease.unanswered.outputs:
            last.append(self.beat(number, now))
        if lease.outputs:
            if lease.unanswered is not None:  # what came since is another heartbeat's
                lease.beats, lease.unanswered = lease.unanswered.number, None
            last.append(self.beat(number, now))
        return last

    # Ends

    def result(self, number: int, final: Final) -> Buffer:
        """An answer as the bytes that are to be kept."""
        plain = replace(final, attempt_id=0)
        return pack_result(JobResult(self._leases[number].client_id, plain))

    def commit(self, number: int, content: Content, body: Buffer) -> Call[JobState | None]:
        """Ends a lease with a result; no body if that is a blob."""
        record = self._leases[number].record
        arguments = (record.id, record.token, content, body)
        return calls.commit(*arguments, bytes_max=self._bytes_max)

    def fail(self, number: int, failure: Failure) -> Call[JobState | None]:
        """Ends a lease with an error."""
        record = self._leases[number].record
        retryable = failure.code in RETRYABLE
        code, message = failure.code.value, failure.message[: calls.MESSAGE_CHARS_MAX]
        told = (record.id, record.token, code, message)
        return calls.fail(*told, retryable=retryable, cause=failure.cause)

    def release(self, number: int) -> Call[JobState | None]:
        """Ends a lease without either; a job that is to be canceled is canceled by that."""
        record = self._leases[number].record
        return calls.release(record.id, record.token)


def _hasten(lease: JobLease, now: float) -> None:
    lease.next_beat = min(lease.next_beat, max(now, lease.beat_at + OUTPUT_GAP_S))


def _estimate(lease: JobLease, now: float) -> Progress | None:
    if lease.began is None or not lease.expected_s:
        return None
    fraction = min((now - lease.began) / lease.expected_s, ESTIMATE_MAX)
    return Progress(fraction, estimated=True)

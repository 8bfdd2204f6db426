"""When a replica leases more jobs, and how many. Pure.

Theory. A job that waits in a replica waits for that replica alone, so as few as possible are held:
as many as fill a slice when nothing is held, and more only where they begin so soon that the store
could not be asked in between (`PREFETCH_S`). Never more than the operator allows, and none while
more calls wait than the next batch takes.

While calls come, jobs are leased a few at a time (`PACED_JOBS`), and at a pace
(`penstock.worker.jobs.pace`): as many as fit two batches at once, again and again, make calls wait
for what it takes to read and write them, more than for their executions.

Nobody polls: after the queue was found empty, a hint says when to look again
(`penstock.worker.jobs.desk_states`).

A suspect (a job that a replica died with) is leased when nothing runs and nothing is held. Where
suspects were passed over, held jobs run out first, so that there is such a moment. Calls may keep
suspects off: then others are leased meanwhile, and suspects are looked for again a little later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.shared.wire import messages
from penstock.shared.wire.messages import Nack, NackReason
from penstock.worker.job_line.messages import FromPort, Hinted, Leased, PortLost, Pull
from penstock.worker.jobs.desk_states import QUEUE_STATES, QueueEvent, QueueState
from penstock.worker.jobs.pace import Pace
from penstock.worker.transitions import after

PREFETCH_S = 0.1
"""Jobs are leased before they can run if those before them take no longer than this: many times
what a store takes to answer, and little compared to what another replica takes to begin them."""

BATCHES_HELD = 2
"""Batches of jobs that are held where no number is set: one runs, and one is ready."""

PACED_JOBS = 4
"""Most jobs that are leased at a time while calls come: about a millisecond of the processors."""

SUSPECT_RETRY_S = 0.1
"""How long after a suspect was kept off by calls it is asked for again."""

_LOOK: Final = QueueState.LOOK
_LOOK_ALONE: Final = QueueState.LOOK_ALONE
"""Every turn of the loop asks for these: to look one up in its class takes 0.1 us until Python
3.12."""


@dataclass(frozen=True)
class Busyness:
    """What a session has to do, as far as it matters here.

    Attributes:
        idle: nothing runs or waits, neither calls nor jobs.
        crowded: more calls wait than the next batch takes.
        slice_jobs: jobs of one row that the next slice takes, at least one.
        slice_s: what those are expected to take; 0: not known.
        calls: how many calls were accepted until now.
    """

    idle: bool
    crowded: bool
    slice_jobs: int
    slice_s: float
    calls: int = 0


class JobDesk:
    """See the module's docstring.

    Args:
        held_max: most jobs to be held.
    """

    def __init__(self, held_max: int) -> None:
        self._held_max = held_max
        self._held: set[int] = set()
        self._queue = _LOOK
        self._not_before = 0.0
        self._pace = Pace()

    def __repr__(self) -> str:
        return f"<JobDesk {self._queue.name}, {len(self._held)} held>"

    @property
    def held(self) -> frozenset[int]:
        """Numbers of the jobs that are held: they run, wait, or wait for their inputs."""
        return frozenset(self._held)

    def wants(self, now: float) -> bool:
        """Whether `pull` may have something to ask for; cheap, for every turn of the loop."""
        return now >= self._not_before and self._looks()

    def next_deadline(self, now: float) -> float | None:
        """When `wants` may change without another event; None: never."""
        return self._not_before if self._not_before > now and self._looks() else None

    def heard(self, message: FromPort | PortLost, now: float) -> None:
        """The port said something."""
        match message:
            case Hinted():
                self._take(QueueEvent.HINT)
            case Leased():
                self._leased(message, now)
            case PortLost():
                self._take(QueueEvent.PORT_LOST)
            case _:
                pass

    def _leased(self, message: Leased, now: float) -> None:
        self._held.update(message.numbers)
        if not message.suspects_waiting:
            self._take(QueueEvent.MORE if message.more else QueueEvent.NO_MORE)
            return
        self._take(QueueEvent.SUSPECTS)
        if not message.numbers:
            self._not_before = now + SUSPECT_RETRY_S

    def left(self, number: int) -> None:
        """A job is here no more, without an answer."""
        self._held.discard(number)

    def ended(self, answers: Sequence[messages.Final | Nack], now: float) -> None:
        """Jobs were answered, or refused."""
        for answer in answers:
            self._held.discard(answer.attempt_id)
            if isinstance(answer, Nack) and answer.reason is NackReason.SUSPECT_BUSY:
                self._take(QueueEvent.KEPT_OFF)
                self._not_before = now + SUSPECT_RETRY_S

    def pull(self, busy: Busyness, now: float, waited_s: Callable[[], float]) -> Pull | None:
        """What to ask the port for now; `waited_s` is for `penstock.worker.jobs.pace`."""
        if not self.wants(now):
            return None
        calls_come = self._pace.calls_come(busy.calls, now)
        most = self._room(busy)
        if not most or (self._held and self._queue is _LOOK_ALONE):
            return None
        if calls_come:
            most = min(most, PACED_JOBS)
            self._not_before = now + most * self._pace.next(now, waited_s())
        self._take(QueueEvent.PULL)
        return Pull(most, busy.idle and not self._held)

    def _take(self, event: QueueEvent) -> None:
        self._queue = after(QUEUE_STATES, self._queue, event)

    def _looks(self) -> bool:
        return self._queue is _LOOK or self._queue is _LOOK_ALONE

    def _room(self, busy: Busyness) -> int:
        if busy.crowded:
            return 0
        held = len(self._held)
        if not held:
            return min(busy.slice_jobs, self._held_max)
        soon = 0.0 < busy.slice_s <= PREFETCH_S
        # Half at a time: each request costs the same, however many it is for.
        return self._held_max - held if soon and 2 * held <= self._held_max else 0

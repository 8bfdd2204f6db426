"""The records of dispatch: a call that is open, and an attempt of it that is in flight."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from penstock.gateway.dispatch.call_state import CallEvent, CallState, after
from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.policies.admission import Ticket
from penstock.gateway.dispatch.replicas import Replica, Revision
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.shared.contracts.errors import FailedAttempt, PenstockError
from penstock.shared.contracts.routing import HedgePolicy, VersionRoute
from penstock.shared.wire import messages
from penstock.shared.wire.records import record

NEVER: Final = float("inf")


class AttemptReason(StrEnum):
    """Why an attempt is made."""

    FIRST = "first"
    LOST = "lost"  # the attempt before it was lost with its replica
    DRAINING = "draining"  # its replica takes nothing new
    NACK = "nack"  # its replica had no room
    ERROR = "error"  # it came to an error that may be tried again
    HEDGE = "hedge"  # it is slow


EXTRA = frozenset({AttemptReason.NACK, AttemptReason.ERROR, AttemptReason.HEDGE})
"""What the throttle must allow; the rest happens once in the life of a replica."""


NONE_TRIED: Final[frozenset[str]] = frozenset()
"""Shared, as a default that is an expression is evaluated for each call once it is compiled."""


class Attempt:
    """One call at one replica, until that has answered or is not to answer any more.

    Attributes:
        id: as the replica is told; unique in the life of this gateway.
        sent_at: monotonic seconds.
        suspect: it was sent as one.
        in_turn: the replica was told to execute it now, as a suspect.
        source: of a hedge, the replica that was too slow.
        overdue: it takes longer than most.
        probe: it is to show whether a replica that was left out is well again.
    """

    __slots__ = (
        "call",
        "id",
        "in_turn",
        "overdue",
        "probe",
        "reason",
        "replica",
        "sent_at",
        "source",
        "suspect",
    )

    def __init__(
        self,
        attempt_id: int,
        call: OpenCall,
        replica: Replica,
        reason: AttemptReason,
        sent_at: float,
    ) -> None:
        self.id = attempt_id
        self.call = call
        self.replica = replica
        self.reason = reason
        self.sent_at = sent_at
        self.suspect = call.blame.suspect
        self.in_turn = False
        self.source: Replica | None = None
        self.overdue = False
        self.probe = False

    def __repr__(self) -> str:
        return f"<Attempt {self.id} of {self.call.id} at {self.replica.id}, {self.reason}>"


@record
class Blame:
    """What speaks against a call when replicas are lost (`penstock.gateway.dispatch.suspects`).

    Attributes:
        suspect: it was in a replica that died.
        lost_unheard: its replica was lost in its turn as a suspect, while it was silent.
        hung: its replica was lost while it executed the call in a batch that had run for long.
    """

    suspect: bool = False
    lost_unheard: bool = False
    hung: bool = False


BLAMELESS: Final = Blame()
"""Of nearly all calls; so what is noted of one is a new record, and never a change of this one."""


class Schedule:
    """When a call has to be looked at, in monotonic seconds; `NEVER`: there is no such time.

    Attributes:
        deadline: when it must be resolved.
        start_by: when it must not be waiting any more; its replica keeps that, or else we.
        hedge_at: when its attempt has taken so long that a hedge is considered.
        wake: when it is to be tried again, if it is parked.
        give_up: when it has waited long enough for any replica, if it is parked.
        timer_at: when its timer goes off; see `penstock.gateway.dispatch.timers`.
    """

    start_by: float = NEVER
    hedge_at: float = NEVER
    wake: float = NEVER
    give_up: float = NEVER
    timer_at: float = NEVER

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<Schedule until {self.deadline:.3f}, next at {self.timer_at:.3f}>"

    def next_parked(self) -> float:
        """When a parked call must be looked at, if nothing happens before."""
        return min(self.deadline, self.start_by, self.give_up, self.wake)

    def next_sent(self) -> float:
        """When a call with an attempt in flight must be looked at, if nothing happens before."""
        return self.hedge_at if self.hedge_at < self.deadline else self.deadline


class OpenCall:
    """The one record of an open call; the class's attributes tell what is true of most.

    Attributes:
        state: moved by `on` alone; see `penstock.gateway.dispatch.call_state`.
        schedule: when it has to be looked at.
        blame: what speaks against it.
        attempt, hedge: its attempts in flight; a hedge is never alone.
        sent: how many attempts were made.
        retries: those that `penstock.gateway.dispatch.policies.throttle` had to allow.
        reason: why the next attempt is made.
        instead: what it fails with if that attempt is not allowed.
        tried: replicas that are not to be asked again.
        ordinary: it was sent at once, and once: from such calls admission learns.
        hedged: a hedge of it was sent, be that in flight still or not.
        denials: how often a hedge of it was denied.
        failed: attempts of it that failed, for the log.
    """

    state: CallState = CallState.UNPLACED
    blame: Blame = BLAMELESS
    attempt: Attempt | None = None
    hedge: Attempt | None = None
    sent: int = 0
    retries: int = 0
    reason: AttemptReason = AttemptReason.FIRST
    instead: PenstockError | None = None
    tried: frozenset[str] = NONE_TRIED
    ordinary: bool = True
    hedged: bool = False
    denials: int = 0
    failed: tuple[FailedAttempt, ...] = ()

    def __init__(
        self,
        *,
        call_id: int,
        request: InferenceCall,
        model: ModelState,
        route: VersionRoute,
        revision: Revision,
        ticket: Ticket,
        size_bytes: int,
        submitted: float,
        deadline: float,
    ) -> None:
        self.id = call_id
        self.request = request
        self.model = model
        self.version = route.version
        self.policy: HedgePolicy = route.hedge
        self.revision = revision
        self.ticket: Ticket | None = ticket
        self.rows = ticket.rows
        self.priority = ticket.priority
        self.size_bytes = size_bytes
        self.submitted = submitted
        self.schedule = Schedule(deadline)

    def __repr__(self) -> str:
        return (
            f"<OpenCall {self.id} of {self.request.model!r} version {self.version}, {self.state}>"
        )

    def on(self, event: CallEvent) -> None:
        """Something happened to it.

        Raises:
            IllegalTransitionError: if that cannot happen in its state.
        """
        self.state = after(self.state, event)

    def note_failed(self, attempt: Attempt) -> None:
        """An attempt of it came to nothing."""
        replica = attempt.replica
        self.failed += (FailedAttempt(attempt.id, replica.id, replica.worker),)


def request_of(call: OpenCall, attempt_id: int, now: float) -> messages.Request:
    """What a replica is sent."""
    request, schedule = call.request, call.schedule
    queue_budget_us = 0
    if schedule.start_by != NEVER:
        queue_budget_us = max(int((schedule.start_by - now) * 1e6), 1)
    return messages.Request(
        attempt_id=attempt_id,
        budget_us=max(int((schedule.deadline - now) * 1e6), 0),
        inputs=request.inputs,
        priority=call.priority,
        suspect=call.blame.suspect,
        traceparent=request.traceparent,
        outputs=request.outputs,
        parameters=request.parameters,
        queue_budget_us=queue_budget_us,
    )


def answer_of(attempt: Attempt, final: messages.Final) -> InferenceAnswer:
    """What the caller is told; to be made while the attempt, and others, are in flight still."""
    call = attempt.call
    before_s = attempt.sent_at - call.submitted
    hedged = ""
    if attempt.reason is AttemptReason.HEDGE:
        hedged = "won"
    elif call.state is CallState.RACING:
        hedged = "lost"
    return InferenceAnswer(
        model=call.request.model,
        version=call.version,
        outputs=final.outputs,
        queue_s=before_s + final.queue_us / 1e6,
        infer_s=final.infer_us / 1e6,
        attempts=call.sent,
        batch_rows=final.batch_rows,
        hedged=hedged,
        before_s=before_s,
    )

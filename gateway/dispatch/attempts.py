"""The records of dispatch: a call that is open, and an attempt of it that is in flight."""

from __future__ import annotations

from enum import StrEnum

from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.policies.admission import Ticket
from penstock.gateway.dispatch.replicas import Replica, Revision
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.shared.contracts.errors import FailedAttempt, PenstockError
from penstock.shared.contracts.routing import HedgePolicy, VersionRoute
from penstock.shared.wire.messages import Final, Request

NEVER = float("inf")


class AttemptReason(StrEnum):
    """Why an attempt is made."""

    FIRST = "first"
    LOST = "lost"  # the attempt before it was lost with its replica
    DRAINING = "draining"  # its replica takes nothing new
    NACK = "nack"  # its replica had no room
    ERROR = "error"  # it came to an error that may be tried again
    HEDGE = "hedge"  # it is slow


FIRST = AttemptReason.FIRST
"""Members of enums that every call meets have names of their own here and below: to look one up in
its class takes 0.1 us until Python 3.12."""

EXTRA = frozenset({AttemptReason.NACK, AttemptReason.ERROR, AttemptReason.HEDGE})
"""What the throttle must allow; the rest happens once in the life of a replica."""


class Attempt:
    """One call at one replica, until that has answered or is not to answer any more.

    Attributes:
        id: as the replica is told; unique in the life of this gateway.
        sent_at: monotonic seconds.
        suspect: it was sent as one.
        source: of a hedge, the replica that was too slow.
        overdue: it takes longer than most.
        probe: it is to show whether a replica that was left out is well again.
    """

    __slots__ = (
        "call",
        "id",
        "overdue",
        "probe",
        "reason",
        "replica",
        "sent_at",
        "source",
        "suspect",
    )

    def __init__(
        self, attempt_id: int, call: Call, replica: Replica, reason: AttemptReason, sent_at: float
    ) -> None:
        self.id = attempt_id
        self.call = call
        self.replica = replica
        self.reason = reason
        self.sent_at = sent_at
        self.suspect = call.suspect
        self.source: Replica | None = None
        self.overdue = False
        self.probe = False

    def __repr__(self) -> str:
        return f"<Attempt {self.id} of {self.call.id} at {self.replica.id}, {self.reason}>"


class Call:
    """The one record of an open call; the class's attributes tell what is true of most.

    Attributes:
        timer_at: when its timer goes off; see `penstock.gateway.dispatch.timers`.
        start_by: when it must not be waiting any more; its replica keeps that, or else we.
        parked: no replica can take it now.
        give_up: when it has waited long enough for any replica, if it is parked.
        wake: when it is to be tried again, if it is parked.
        hedge_at: when its attempt has taken so long that a hedge is considered.
        attempt, hedge: its attempts in flight; a hedge is never alone.
        sent: how many attempts were made.
        retries: those that `penstock.gateway.dispatch.policies.throttle` had to allow.
        reason: why the next attempt is made.
        instead: what it fails with if that attempt is not allowed.
        tried: replicas that are not to be asked again.
        suspect: it was in a replica that died.
        in_turn: it was told to proceed, as a suspect.
        streaming: a part of its answer has come.
        ordinary: it was sent at once, and once: from such calls admission learns.
        lost_unheard: its replica was lost, while it was silent, in the call's turn.
        hedged: a hedge of it was sent.
        hung: its replica was lost while it executed the call in a batch that had run for long.
        denials: how often a hedge of it was denied.
        failed: attempts of it that failed, for the log.
    """

    timer_at: float = NEVER
    start_by: float = NEVER
    parked: bool = False
    give_up: float = NEVER
    wake: float = NEVER
    hedge_at: float = NEVER
    attempt: Attempt | None = None
    hedge: Attempt | None = None
    sent: int = 0
    retries: int = 0
    reason: AttemptReason = FIRST
    instead: PenstockError | None = None
    tried: frozenset[str] = frozenset()
    suspect: bool = False
    in_turn: bool = False
    streaming: bool = False
    ordinary: bool = True
    lost_unheard: bool = False
    hedged: bool = False
    hung: bool = False
    denials: int = 0
    failed: tuple[FailedAttempt, ...] = ()

    def __init__(
        self,
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
        self.deadline = deadline

    def __repr__(self) -> str:
        return f"<Call {self.id} of {self.request.model!r} version {self.version}>"

    def note_failed(self, attempt: Attempt) -> None:
        """An attempt of it came to nothing."""
        replica = attempt.replica
        self.failed += (FailedAttempt(attempt.id, replica.id, replica.worker),)

    def next_timer(self) -> float:
        """When it must be looked at, if nothing happens before."""
        if self.parked:
            return min(self.deadline, self.start_by, self.give_up, self.wake)
        return self.hedge_at if self.hedge_at < self.deadline else self.deadline


def request_of(call: Call, attempt_id: int, now: float) -> Request:
    """What a replica is sent."""
    request = call.request
    queue_budget_us = 0
    if call.start_by != NEVER:
        queue_budget_us = max(int((call.start_by - now) * 1e6), 1)
    return Request(
        attempt_id,
        max(int((call.deadline - now) * 1e6), 0),
        request.inputs,
        call.priority,
        call.suspect,
        request.traceparent,
        request.outputs,
        request.parameters,
        queue_budget_us,
    )


def answer_of(attempt: Attempt, final: Final) -> InferenceAnswer:
    """What the caller is told; to be made while the attempt, and others, are in flight still."""
    call = attempt.call
    before_s = attempt.sent_at - call.submitted
    hedged = ""
    if attempt.reason is AttemptReason.HEDGE:
        hedged = "won"
    elif call.hedge is not None:
        hedged = "lost"
    return InferenceAnswer(
        call.request.model,
        call.version,
        final.outputs,
        before_s + final.queue_us / 1e6,
        final.infer_us / 1e6,
        call.sent,
        final.batch_rows,
        hedged,
        before_s,
    )

"""The attempts that are in flight: how each begins, and that each ends once."""

from __future__ import annotations

from penstock.gateway.dispatch.attempts import (
    EXTRA,
    Attempt,
    AttemptReason,
    OpenCall,
    request_of,
)
from penstock.gateway.dispatch.call_state import CallEvent
from penstock.gateway.dispatch.commands import SendRequest
from penstock.gateway.dispatch.counters import DispatchCounters, HedgeResult
from penstock.gateway.dispatch.policies.ejection import IN
from penstock.gateway.dispatch.replicas import Replica


class InFlight:
    """All attempts at all replicas. Used by `penstock.gateway.dispatch.dispatch`."""

    def __init__(self, counters: DispatchCounters) -> None:
        self._counters = counters
        self._attempts: dict[int, Attempt] = {}
        self._next = 1

    def __repr__(self) -> str:
        return f"<InFlight {len(self._attempts)} attempts>"

    def at(self, replica_id: str, attempt_id: int) -> Attempt | None:
        """An attempt that is in flight at a replica; None (and counted) if it has ended."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.replica.id != replica_id:
            self._counters.late += 1
            return None
        return attempt

    def of(self, replica: Replica) -> list[Attempt]:
        """All attempts at a replica."""
        return [self._attempts[attempt_id] for attempt_id in replica.attempts]

    def begin(
        self, call: OpenCall, replica: Replica, reason: AttemptReason, now: float
    ) -> SendRequest:
        """An attempt of a call at a replica, beside the one in flight if there is one."""
        attempt_id = self._next
        self._next += 1
        attempt = Attempt(attempt_id, call, replica, reason, now)
        if call.attempt is None:
            call.on(CallEvent.SEND)
            call.attempt = attempt
        else:
            call.on(CallEvent.HEDGE)
            call.hedge = attempt
            attempt.source = call.attempt.replica
            attempt.source.hedged_at.add(replica.id)
        if call.sent:
            call.ordinary = False
        call.sent += 1
        if reason is AttemptReason.FIRST:
            self._counters.first_attempts += 1
        else:
            self._counters.more_attempts[reason] += 1
        self._attempts[attempt_id] = attempt
        replica.assign(attempt_id, call.rows, suspect=attempt.suspect)
        if replica.standing.state is not IN:
            attempt.probe = True
            call.revision.ejection.sent(replica.standing)
        return SendRequest(replica.id, request_of(call, attempt_id, now), call.sent)

    def end(self, attempt: Attempt, result: HedgeResult = HedgeResult.FAILED) -> None:
        """An attempt is not in flight any more; if it was a hedge, that is what it came to."""
        call, replica = attempt.call, attempt.replica
        del self._attempts[attempt.id]
        replica.settle(attempt.id)
        if attempt.probe:
            call.revision.ejection.ended(replica.standing)
        if attempt.overdue:
            replica.overdue_now -= 1
        call.on(CallEvent.END)
        if call.hedge is attempt:
            call.hedge = None
        else:
            call.attempt, call.hedge = call.hedge, None
        if attempt.reason is AttemptReason.FIRST:
            return
        if attempt.reason in EXTRA:
            call.model.throttle.ended()
        if attempt.source is not None:
            attempt.source.hedged_at.discard(replica.id)
            self._counters.hedges[result] += 1

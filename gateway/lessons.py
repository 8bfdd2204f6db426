"""What attempts that ended teach: how long calls take, who answers, what may be let in.

Only a call's first attempt is a fair sample: retries and hedges go to replicas that look better. Of
those, admission learns if the call was sent at once, and once.
"""

from __future__ import annotations

from gateway.attempts import FIRST, Attempt, Call
from gateway.replicas import Replica
from shared.messages import Final


def answered(attempt: Attempt, final: Final, now: float) -> None:
    """An attempt was answered; it may be a hedge that was faster than the first one."""
    call, took_s = attempt.call, now - attempt.sent_at
    call.model.throttle.answered()
    if call.revision.several:
        _observe(call, now)
        attempt.replica.overdue = 0
        attempt.replica.standing.answered(took_s)
    if call.ordinary and call.ticket is not None:
        admission, infer_s = call.revision.admission, final.infer_us / 1e6
        admission.answered(call.ticket, took_s, final.batch_rows, infer_s)
        call.ticket = None


def expired(attempt: Attempt, now: float) -> None:
    """The deadline passed while an attempt was in flight."""
    call = attempt.call
    call.revision.ejection.failed(attempt.replica.standing, now)
    if call.attempt is not attempt:
        return
    _observe(call, now)
    if call.ordinary and call.ticket is not None:
        call.revision.admission.expired(call.ticket, now - attempt.sent_at)
        call.ticket = None


def refused(call: Call, replica: Replica, now: float) -> None:
    """An attempt came to nothing, and might have come to something elsewhere."""
    call.model.throttle.failed()
    call.revision.ejection.failed(replica.standing, now)


def _observe(call: Call, now: float) -> None:
    """How long the first attempt took; if it lost, it would have taken longer than that."""
    first = call.attempt
    if call.revision.several and first is not None and first.reason is FIRST:
        call.revision.latencies.of(call.rows).observe(now - first.sent_at)

"""What attempts that ended teach: how long calls take, who answers, what may be let in.

Only a call's first attempt is a fair sample: retries and hedges go to replicas that look better. Of
those, admission learns if the call was sent at once, and once.
"""

from __future__ import annotations

from penstock.gateway.dispatch.attempts import Attempt, AttemptReason, OpenCall
from penstock.gateway.dispatch.policies.ejection import IN
from penstock.shared.wire.messages import Final


def answered(attempt: Attempt, final: Final, now: float) -> None:
    """An attempt was answered; it may be a hedge that was faster than the first one."""
    call, took_s = attempt.call, now - attempt.sent_at
    call.model.throttle.answered()
    if call.revision.several:
        _observe(call, now)
        replica = attempt.replica
        replica.overdue = replica.overdue_now
        if replica.standing.state is IN or attempt.probe:
            replica.standing.answered(took_s)
        first = call.attempt
        if first is not None and first is not attempt and first.replica.standing.state is IN:
            first.replica.standing.took(now - first.sent_at)  # it would have taken longer
    if call.ordinary and call.ticket is not None:
        admission, infer_s = call.revision.admission, final.infer_us / 1e6
        admission.answered(call.ticket, took_s, final.batch_rows, infer_s)
        call.ticket = None


def expired(attempt: Attempt, now: float) -> None:
    """The deadline passed while an attempt was in flight."""
    call = attempt.call
    usual_s = call.revision.latencies.of(call.rows).median_s
    if usual_s and now - attempt.sent_at >= usual_s:  # else it is the client that was too hasty
        _failed(attempt, now)
    if call.attempt is not attempt:
        return
    _observe(call, now)
    if call.ordinary and call.ticket is not None:
        call.revision.admission.expired(call.ticket, now - attempt.sent_at)
        call.ticket = None


def refused(attempt: Attempt, now: float) -> None:
    """An attempt came to nothing, and might have come to something elsewhere."""
    attempt.call.model.throttle.failed()
    _failed(attempt, now)


def _failed(attempt: Attempt, now: float) -> None:
    """A mark against the replica; attempts from before it was left out say nothing of it now."""
    standing = attempt.replica.standing
    if standing.state is IN or attempt.probe:
        attempt.call.revision.ejection.failed(standing, now)


def _observe(call: OpenCall, now: float) -> None:
    """How long the first attempt took; if it lost, it would have taken longer than that."""
    first = call.attempt
    if call.revision.several and first is not None and first.reason is AttemptReason.FIRST:
        call.revision.latencies.of(call.rows).observe(now - first.sent_at)

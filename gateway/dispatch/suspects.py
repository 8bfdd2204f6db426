"""Who is to blame when a replica is lost.

`penstock.gateway.dispatch.dispatch` has what becomes of suspects,
`penstock.gateway.dispatch.parked` those that no replica can take.

A call is the culprit beyond doubt in two cases:

- The replica executed it alone, and had waited for word to do so. Of a replica that was silent this
  is believed the second time only, unless others of its worker were heard: it may have been cut
  off with its host.
- The replica executed it in a batch that had run for long, and so did the replica that it was
  lost with before: it was hedged, and hung both. Of the calls that a replica may hang on, one is
  hedged at a time (`penstock.gateway.dispatch.hedges`), so no innocent one was in both batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from penstock.gateway.dispatch.attempts import Attempt
from penstock.gateway.dispatch.replicas import Replica


def culprits(replica: Replica, attempts: Sequence[Attempt], now: float) -> list[Attempt]:
    """Those of the attempts at a replica, which is lost, that were the cause.

    What is remembered of their calls for the next time is noted.
    """
    return [attempt for attempt in attempts if _is_culprit(replica, attempt, now)]


def verdict(attempt: Attempt) -> str:
    """What the caller of a culprit is told."""
    call = attempt.call
    name = f"model {call.model.name!r} version {call.version}"
    if attempt.suspect:
        return f"the replica that executed this request alone died, twice in a row: {name}"
    return f"two replicas hung while they executed this request, and were ended: {name}"


def _is_culprit(replica: Replica, attempt: Attempt, now: float) -> bool:
    call = attempt.call
    blame = call.blame
    if attempt.in_turn:
        revision, before = call.revision, blame.lost_unheard
        call.blame = replace(blame, lost_unheard=True)
        stopped = revision.has_stopped(replica, now)
        return before or not stopped or revision.stopped_alone(replica, now)
    if attempt.id not in replica.executing or call.revision.has_stopped(replica, now):
        return False
    call.blame = replace(blame, hung=True)
    return blame.hung

"""The calls that no replica can take now: until when they wait, and which of them go first. Pure.

Theory. A call is parked while no replica of its version is ready, while it waits before its next
retry, or, as a suspect, while every replica holds another one. When something changes that may help
(a replica, a route), all are tried that do not wait for their retry, by priority. Suspects are more
many than replicas that can take one: when a replica has done with its suspect, one goes there, the
most urgent and of those the oldest. What other gateways' suspects do is not told of, so each looks
for itself from time to time, and lets one that is more urgent go first.

A call that is parked waits until its deadline at most, or for as long as it may wait without being
executed; and where there is no replica at all, for `replica_wait_s`.

Used by `penstock.gateway.dispatch.dispatch`, which tries what is named here.
"""

from __future__ import annotations

from penstock.gateway.dispatch.attempts import NEVER, OpenCall
from penstock.gateway.dispatch.call_state import CallEvent
from penstock.gateway.dispatch.counters import DispatchCounters
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.replicas import Revision
from penstock.gateway.dispatch.timers import CallTimers
from penstock.shared.contracts.errors import ErrorCode, PenstockError

SUSPECTS_AT_ONCE = 16
"""Parked suspects that look again at about the same time: each looks at every replica."""


class Parked:
    """See the module's docstring. A call knows by its state whether it is among them."""

    def __init__(
        self, limits: DispatchLimits, timers: CallTimers, counters: DispatchCounters
    ) -> None:
        self._limits = limits
        self._timers = timers
        self._counters = counters
        self._calls: dict[int, OpenCall] = {}  # in the order in which they came

    def __repr__(self) -> str:
        return f"<Parked {len(self._calls)} calls>"

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: OpenCall, now: float, wake: float = NEVER) -> None:
        """Have a call wait, and be tried again at `wake` if nothing helps it before."""
        self._calls[call.id] = call
        call.on(CallEvent.PARK)
        call.ordinary = False
        schedule = call.schedule
        schedule.hedge_at = NEVER
        schedule.wake = wake
        if wake == NEVER and schedule.give_up == NEVER and not call.revision.connected:
            schedule.give_up = now + self._limits.replica_wait_s
        self._timers.set(call, schedule.next_parked())

    def add_suspect(self, call: OpenCall, now: float) -> None:
        """Every replica holds another suspect. Most of ours are tried when one of those ends; what
        others hold is not told of, so look again, the more rarely the more calls do so."""
        rounds = 1 + len(self._calls) // SUSPECTS_AT_ONCE
        self.add(call, now, wake=now + self._limits.suspect_retry_s * rounds)

    def remove(self, call: OpenCall) -> None:
        """A call gets an attempt, or is over."""
        del self._calls[call.id]
        call.on(CallEvent.UNPARK)
        call.schedule.give_up = call.schedule.wake = NEVER

    def to_retry(self, now: float) -> list[OpenCall]:
        """All that are to be tried, in their order, since something changed that may help."""
        calls = sorted(self._calls.values(), key=_priority)
        return [
            call for call in calls if call.blame.suspect or not now < call.schedule.wake < NEVER
        ]

    def first_suspect(self, revision: Revision) -> OpenCall | None:
        """Of the most urgent suspects that wait for a replica of a revision, the oldest."""
        waiting = [call for call in self._calls.values() if call.blame.suspect]
        mine = [call for call in waiting if call.revision is revision]
        return min(mine, key=_priority, default=None)

    def timer_fired(self, call: OpenCall, now: float) -> list[OpenCall] | PenstockError:
        """A parked call's time has come: the calls that are to be tried, or what it fails with."""
        schedule = call.schedule
        if schedule.start_by <= now:
            self._counters.expired += 1
            waited_s = schedule.start_by - call.submitted
            message = f"waited {waited_s:.3f} s without being executed, as long as it may"
            return PenstockError(ErrorCode.QUEUE_TIMEOUT, message)
        if schedule.wake <= now:
            schedule.wake = NEVER
            return self._with_more_urgent(call) if call.blame.suspect else [call]
        if schedule.give_up <= now:
            schedule.give_up = NEVER
            if not call.revision.connected:
                message = f"no replica of model {call.model.name!r} is ready"
                return PenstockError(ErrorCode.NO_READY_REPLICA, message, 1.0)
        return []

    def _with_more_urgent(self, call: OpenCall) -> list[OpenCall]:
        """A suspect looks at all replicas again; one that is more urgent goes first."""
        call.tried = frozenset()
        first = self.first_suspect(call.revision)
        if first is None or first.priority >= call.priority:
            return [call]
        first.tried = frozenset()
        return [first, call]


def _priority(call: OpenCall) -> int:
    return call.priority

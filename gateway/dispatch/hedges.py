"""Second attempts of calls that are open: when they are looked at, and where they are sent.

`penstock.gateway.dispatch.policies.hedging` has the theory and the rules; this gathers what the
rules ask for, and does what they allow.
"""

from __future__ import annotations

from penstock.gateway.dispatch.attempts import NEVER, AttemptReason, OpenCall
from penstock.gateway.dispatch.call_state import CallState
from penstock.gateway.dispatch.commands import Command, SendProbe
from penstock.gateway.dispatch.counters import DispatchCounters
from penstock.gateway.dispatch.in_flight import InFlight
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.policies.balancer import Rng, choose
from penstock.gateway.dispatch.policies.hedging import (
    HedgeDenial,
    HedgeFacts,
    hedge_delay,
    is_saturated,
    may_hedge,
)
from penstock.gateway.dispatch.replicas import Replica
from penstock.gateway.dispatch.timers import CallTimers


class Hedges:
    """Used by `penstock.gateway.dispatch.dispatch`."""

    def __init__(
        self,
        limits: DispatchLimits,
        rng: Rng,
        in_flight: InFlight,
        timers: CallTimers,
        counters: DispatchCounters,
    ) -> None:
        self._attempts_max = limits.attempts_max
        self._settings = limits.revisions.hedging
        self._rng = rng
        self._in_flight = in_flight
        self._timers = timers
        self._counters = counters

    def look_at(self, call: OpenCall, now: float) -> float:
        """When a call whose attempt was sent, or whose hedge was denied, is to be looked at."""
        if not call.revision.several or call.blame.suspect:
            return NEVER
        delay_s = self._delay_s(call)
        if delay_s is None:
            return NEVER
        delay_s = max(delay_s, self._settings.delay_s_min)
        if call.denials:  # what hinders one call hinders many: look the more rarely
            longest_s = max(delay_s, self._settings.look_s_max)
            delay_s = min(delay_s * 2.0 ** min(call.denials, 16), longest_s)
        return now + delay_s

    def overdue(self, call: OpenCall, now: float) -> list[Command]:
        """The call's attempt takes longer than most."""
        attempt = call.attempt
        if attempt is not None and not attempt.overdue:
            attempt.overdue = True
            attempt.replica.overdue += 1
            attempt.replica.overdue_now += 1
        return self.consider(call, now)

    def consider(self, call: OpenCall, now: float) -> list[Command]:
        """Send another attempt beside the one in flight, if that may be; else look again later."""
        schedule, attempt = call.schedule, call.attempt
        schedule.hedge_at = NEVER
        if attempt is None or call.state is not CallState.IN_FLIGHT or call.blame.suspect:
            return []
        if schedule.start_by <= now or call.sent >= self._attempts_max:
            return []
        asking = self._asking(call, attempt.replica, now)
        if asking is not None:
            return asking
        choice = self._choose(call, now)
        if isinstance(choice, HedgeDenial):
            if not call.denials:
                self._counters.denied[choice] += 1
            call.denials += 1
            if choice is not HedgeDenial.DEADLINE:
                schedule.hedge_at = self.look_at(call, now)
                self._timers.set(call, schedule.next_sent())
            return []
        call.hedged = True
        call.model.hedges.spend()
        call.model.throttle.hedged()
        return [self._in_flight.begin(call, choice, AttemptReason.HEDGE, now)]

    def consider_next(self, source: Replica, now: float) -> list[Command]:
        """A hedge won against a replica: its next call that was denied one may have its turn."""
        for attempt in self._in_flight.of(source):
            if attempt.call.denials and attempt.call.hedge is None:
                return self.consider(attempt.call, now)
        return []

    def _asking(self, call: OpenCall, source: Replica, now: float) -> list[Command] | None:
        """Ask the slow replica of a call whether it lives, and look again; None: that is known."""
        again_at = self._ask_again_at(source, now)
        if again_at is None:
            return None
        call.schedule.hedge_at = again_at
        self._timers.set(call, call.schedule.next_sent())
        if source.asked_at > source.heard_at:
            return []
        source.asked_at = now
        return [SendProbe(source.id)]

    def _delay_s(self, call: OpenCall) -> float | None:
        """How long is slow for such a call, in seconds; None if that is not known."""
        latency = call.revision.latencies.of(call.rows)
        return hedge_delay(call.policy, latency, self._settings)

    def _ask_again_at(self, source: Replica, now: float) -> float | None:
        """When to look whether a slow replica has answered; None: it has, or had its time."""
        settings = self._settings
        if source.heard_at >= now - settings.answer_look_s:
            return None
        is_asked = source.asked_at >= now - settings.answer_s
        if is_asked and source.heard_at > source.asked_at:
            return None
        if source.asked_at > source.heard_at and not is_asked:
            return None
        return now + settings.answer_look_s

    def _choose(self, call: OpenCall, now: float) -> Replica | HedgeDenial:
        """Where to send the hedge of a call that has one attempt in flight; or why not to.

        It goes to another worker if there is one, since the replicas of a worker are lost together.
        """
        attempt, revision = call.attempt, call.revision
        assert attempt is not None
        untried = [
            replica
            for replica in revision.ready(now)
            if replica is not attempt.replica
            and replica.id not in call.tried
            and replica.standing.takes_calls
        ]
        source = attempt.replica
        untried = [replica for replica in untried if replica.worker != source.worker] or untried
        stopped = revision.has_stopped(source, now)
        open_to = untried
        if source.may_hang_on(attempt.id) and not stopped:
            open_to = [replica for replica in untried if replica.id not in source.hedged_at]
        free = [replica for replica in open_to if stopped or not self._is_saturated(replica)]
        facts = HedgeFacts(
            untried=len(untried),
            open_to=len(open_to),
            unsaturated=len(free),
            remaining_s=call.schedule.deadline - now,
            throttle_allows=call.model.throttle.allows(call.model.open),
        )
        latency = revision.latencies.of(call.rows)
        denial = may_hedge(facts, latency, call.model.hedges)
        if denial is not None:
            return denial
        return choose(free, self._rng, revision.heard_since(now)) or HedgeDenial.FEW_REPLICAS

    def _is_saturated(self, replica: Replica) -> bool:
        backlog_rows = replica.rows + replica.foreign_rows
        return is_saturated(backlog_rows, replica.interface.max_batch_size, self._settings)

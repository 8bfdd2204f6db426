"""Every call's way from submission to its one answer: which replica is asked, and when again.

Theory. A call is open until it is resolved, exactly once, by the first of: an answer, a failure
that is final, its deadline, its cancellation. While open it has one *attempt* at a replica in
flight, or two, or it is *parked* because no replica can take it now
(`penstock.gateway.dispatch.parked`).

- An attempt that is slow gets a second one beside it, a *hedge*
  (`penstock.gateway.dispatch.policies.hedging`). The first answer wins and the other attempt is
  cancelled.
- An attempt that a replica refused (a Nack), or that came to an error that may be tried again, is
  made again at a replica that was not asked before: at once the first time, and then after a wait
  with full jitter. The model's `penstock.gateway.dispatch.policies.throttle` must allow it, as it
  must allow hedges.
- An attempt that was lost with its replica, or refused because that drains, is made again in any
  case: that happens once in the life of a replica.

A call that was in a replica when that was lost becomes a *suspect*: it may have been what killed
it. A suspect runs alone, and before it does, the replica tells that its turn has come, and waits
for word to proceed. The loss of a replica after that word names the culprit: that is final, and
what else was in the replica is innocent. A call that was hedged, and hung both replicas until they
were killed, is a culprit too; to tell, only one of a replica's calls is hedged at a time.

The states of a call, and what leads from one to another, are in
`penstock.gateway.dispatch.call_state`.

`penstock.gateway.dispatch.policies.admission` says which calls are let in. Deadlines are kept by a
heap, so that `advance` answers on time whatever a replica does. An answer that comes after its
attempt ended is dropped and counted.

Invariants (tests/unit/gateway/dispatch/test_dispatch.py): each call resolves exactly once; its
attempts stay within `attempts_max`, at most two of them at a time, and at different replicas; extra
ones stay within throttle and budget; after the last call is resolved nothing is remembered of any.

Previous stop of a request: `penstock.gateway.inference.service`. Next:
`penstock.gateway.transport.router`.
"""

from __future__ import annotations

from dataclasses import replace

from penstock.gateway.dispatch import lessons, suspects
from penstock.gateway.dispatch.attempts import (
    EXTRA,
    NEVER,
    Attempt,
    AttemptReason,
    OpenCall,
    answer_of,
)
from penstock.gateway.dispatch.call_state import CallEvent, CallState
from penstock.gateway.dispatch.commands import (
    Answered,
    CallFailed,
    Command,
    SendCancel,
    SendProceed,
    Streamed,
)
from penstock.gateway.dispatch.counters import (
    CancelReason,
    DispatchCounters,
    HedgeResult,
    ShedReason,
)
from penstock.gateway.dispatch.hedges import Hedges
from penstock.gateway.dispatch.in_flight import InFlight
from penstock.gateway.dispatch.intake import Intake, LargeTicket
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.parked import Parked
from penstock.gateway.dispatch.policies.balancer import Rng, choose
from penstock.gateway.dispatch.policies.throttle import backoff_s_max
from penstock.gateway.dispatch.replicas import Replica, Replicas, Revision
from penstock.gateway.dispatch.timers import CallTimers
from penstock.gateway.inference.types import InferenceCall
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.messages import (
    Cancel,
    Chunk,
    Failure,
    Final,
    Load,
    Nack,
    NackReason,
    Proceed,
)

PASSING = frozenset({ErrorCode.QUEUE_TIMEOUT, ErrorCode.DEADLINE_EXCEEDED, ErrorCode.OUT_OF_MEMORY})
"""Failures that say something of the replica: while another attempt runs, they are not final."""


class Dispatch:
    """See the module's docstring. Times are monotonic seconds."""

    def __init__(
        self,
        limits: DispatchLimits,
        routes: Routes,
        replicas: Replicas,
        rng: Rng,
        held: HeldBytes | None = None,
    ) -> None:
        self.counters = DispatchCounters()
        self._limits = limits
        self._routes = routes
        self._replicas = replicas
        self._rng = rng
        self._intake = Intake(limits, routes, replicas, self.counters, held or HeldBytes())
        self._calls: dict[int, OpenCall] = {}
        self._in_flight = InFlight(self.counters)
        self._timers = CallTimers(self._calls)
        self._parked = Parked(limits, self._timers, self.counters)
        self._hedges = Hedges(limits, rng, self._in_flight, self._timers, self.counters)

    def __repr__(self) -> str:
        return f"<Dispatch {len(self._calls)} open, {len(self._parked)} parked>"

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def parked(self) -> int:
        """Open calls that no replica can take now."""
        return len(self._parked)

    def models(self) -> list[ModelState]:
        """What is kept of each model that was called."""
        return self._intake.models()

    # What comes from the caller

    def submit(self, call_id: int, request: InferenceCall, now: float) -> list[Command]:
        """A new call. It may be resolved at once.

        Raises:
            PenstockError: if it is shed, or no version can answer it; then it was never open.
        """
        call = self._calls[call_id] = self._intake.accept(call_id, request, now)
        return self._dispatch(call, now)

    def accept_large(self, request: InferenceCall, rows: int, now: float) -> LargeTicket:
        """A new request of so many rows that it goes in pieces: submit them, and then close it.

        Raises:
            PenstockError: if it is shed, or no version can answer it; then it was never open.
        """
        return self._intake.accept_large(request, rows, now)

    def close_large(self, ticket: LargeTicket) -> None:
        """A request that went in pieces is over."""
        self._intake.close_large(ticket)

    def cancel(self, call_id: int) -> list[Command]:
        """Nobody waits for the call any more; it is resolved without a word."""
        call = self._calls.get(call_id)
        if call is None:
            return []
        self.counters.cancels[CancelReason.CLIENT] += 1
        return self._close(call)

    # What comes from replicas

    def final(self, replica_id: str, final: Final, now: float) -> list[Command]:
        """A replica answered an attempt."""
        attempt = self._in_flight.at(replica_id, final.attempt_id)
        if attempt is None:
            return []
        call = attempt.call
        if final.failure is None:
            commands = self._answered(attempt, final, now)
        else:
            commands = self._failed(attempt, final.failure, now)
        if call.blame.suspect:
            commands += self._retry_suspects(call.revision, now)
        return commands

    def chunk(self, replica_id: str, chunk: Chunk) -> list[Command]:
        """A replica sent a part of an answer; from now on there is no way back."""
        attempt = self._in_flight.at(replica_id, chunk.attempt_id)
        if attempt is None:
            return []
        call = attempt.call
        commands: list[Command] = []
        other = call.hedge if attempt is call.attempt else call.attempt
        if other is not None:
            self.counters.cancels[CancelReason.HEDGE] += 1
            self._in_flight.end(other, HedgeResult.LOST)
            commands.append(SendCancel(other.replica.id, Cancel(other.id)))
        call.on(CallEvent.STREAM)
        commands.append(Streamed(call.id, chunk))
        return commands

    def suspect_turn(self, replica_id: str, attempt_id: int) -> list[Command]:
        """A replica is about to execute a suspect."""
        attempt = self._in_flight.at(replica_id, attempt_id)
        if attempt is None:
            return [SendCancel(replica_id, Cancel(attempt_id))]
        attempt.in_turn = attempt.suspect
        return [SendProceed(replica_id, Proceed(attempt_id))]

    def nack(self, replica_id: str, nack: Nack, now: float) -> list[Command]:
        """A replica refused an attempt before it started it."""
        attempt = self._in_flight.at(replica_id, nack.attempt_id)
        if attempt is None:
            return []
        call, replica = attempt.call, attempt.replica
        self.counters.nacks[nack.reason.name.lower()] += 1
        self._in_flight.end(attempt)
        if nack.reason is NackReason.DRAINING:
            replica.draining = True
        else:
            call.tried |= {replica_id}
        if nack.reason is NackReason.FULL:
            lessons.refused(attempt, now)
        if call.state is CallState.SPENT:
            return self._fail(call, ErrorCode.INTERNAL, "a replica refused what it had begun")
        if call.attempt is not None:
            return self._hedges.consider(call, now)  # the other one goes on
        if nack.reason is NackReason.SUSPECT_BUSY and attempt.suspect:
            call.sent -= 1  # it only has to wait for its turn
            call.reason, call.instead = AttemptReason.LOST, None
            self._parked.add_suspect(call, now)
            return []
        if nack.reason is NackReason.DRAINING:
            return self._start_again(call, AttemptReason.DRAINING, now)
        if call.blame.suspect:
            return self._resolve_again(call, now)
        message = f"every replica of model {call.model.name!r} is full"
        return self._retry(call, AttemptReason.NACK, ErrorCode.QUEUE_FULL, message, now)

    def refused(self, attempt_id: int, replica_id: str, now: float) -> list[Command]:
        """An attempt could not be sent, because the way to the replica is full."""
        return self.nack(replica_id, Nack(attempt_id, NackReason.FULL), now)

    def not_encoded(self, attempt_id: int, replica_id: str, now: float) -> list[Command]:
        """An attempt could not be sent, because its request cannot be encoded: nor will another."""
        attempt = self._in_flight.at(replica_id, attempt_id)
        if attempt is None:
            return []
        call = attempt.call
        self._in_flight.end(attempt)
        message = "the request cannot be told to a replica; the gateway's log says why"
        commands = self._fail(call, ErrorCode.INTERNAL, message)
        if call.blame.suspect:
            commands += self._retry_suspects(call.revision, now)
        return commands

    def load(self, replica: Replica, load: Load, now: float) -> None:
        """A replica told its load."""
        replica.reported(load)
        self._replicas.revision(replica.revision).looked_at(now)

    def replica_ready(self, now: float) -> list[Command]:
        """Readiness of a replica changed: what is parked may have somewhere to go."""
        for revision in self._replicas.revisions():
            revision.looked_at(now)
        return self._resolve_all_again(self._parked.to_retry(now), now)

    def routes_changed(self, now: float) -> list[Command]:
        """Routes changed: what is parked may have somewhere to go."""
        self._intake.routes_changed()
        return self._resolve_all_again(self._parked.to_retry(now), now)

    def replica_lost(self, replica: Replica, now: float) -> list[Command]:
        """A replica, already removed, is gone with all that it held."""
        commands: list[Command] = []
        attempts = self._in_flight.of(replica)
        culprits = suspects.culprits(replica, attempts, now)
        for attempt in sorted(attempts, key=lambda attempt: attempt.call.priority):
            self.counters.lost += 1
            attempt.call.note_failed(attempt)
            self._in_flight.end(attempt)
            if attempt in culprits:
                commands += self._fail(
                    attempt.call, ErrorCode.REPLICA_CRASHED, suspects.verdict(attempt)
                )
            else:
                innocent = bool(culprits) or replica.alone
                commands += self._after_loss(attempt, innocent, now)
        return commands

    # What comes with time

    def advance(self, now: float) -> list[Command]:
        """Time passed: answer what expired, hedge what is slow, try what was parked until now."""
        commands: list[Command] = []
        for call in self._timers.due(now):
            commands += self._timer_fired(call, now)
            if call.id in self._calls:
                self._timers.set(call, _next_timer(call))
        return commands

    def next_deadline(self) -> float | None:
        """When `advance` must be called at the latest; None: not by itself."""
        return self._timers.next()

    def _timer_fired(self, call: OpenCall, now: float) -> list[Command]:
        schedule = call.schedule
        if schedule.deadline <= now:
            return self._expire(call, now)
        if call.state is not CallState.PARKED:
            return self._hedges.overdue(call, now) if schedule.hedge_at <= now else []
        found = self._parked.timer_fired(call, now)
        if isinstance(found, PenstockError):
            return self._give_up(call, found)
        return self._resolve_all_again(found, now)

    def _expire(self, call: OpenCall, now: float) -> list[Command]:
        self.counters.expired += 1
        for attempt in (call.attempt, call.hedge):
            if attempt is not None:
                self.counters.cancels[CancelReason.DEADLINE] += 1
                lessons.expired(attempt, now)
                call.note_failed(attempt)
        message = f"no answer within {call.schedule.deadline - call.submitted:.3f} s"
        return self._fail(call, ErrorCode.DEADLINE_EXCEEDED, message)

    # Attempts

    def _dispatch(self, call: OpenCall, now: float) -> list[Command]:
        """Start an attempt at a replica that can take it, or park the call."""
        revision = call.revision
        ready = revision.ready(now)
        if call.sent or not revision.ejection.all_in:
            replica = choose(self._candidates(call, now), self._rng, revision.heard_since(now))
        else:
            replica = choose(ready, self._rng, revision.heard_since(now))
        if replica is None:
            if ready and call.blame.suspect:
                self._parked.add_suspect(call, now)
                return []
            if ready and call.instead is not None:
                return self._give_up(call, call.instead)  # all were asked
            replica = choose(ready, self._rng, revision.heard_since(now))
        if replica is None:
            self._parked.add(call, now)
            return []
        if call.sent >= self._limits.attempts_max:
            error = PenstockError(ErrorCode.UNAVAILABLE, "no replica accepted the call", 1.0)
            return self._give_up(call, call.instead or error)
        if call.instead is not None and call.reason in EXTRA:
            if not call.model.throttle.allows(call.model.open):
                return self._give_up(call, call.instead)
            call.model.throttle.retried()
        if call.state is CallState.PARKED:
            self._parked.remove(call)
        commands: list[Command] = [self._in_flight.begin(call, replica, call.reason, now)]
        call.schedule.hedge_at = self._hedges.look_at(call, now) if revision.several else NEVER
        self._timers.set(call, call.schedule.next_sent())
        return commands

    def _candidates(self, call: OpenCall, now: float) -> list[Replica]:
        """The replicas that may be sent the call's next attempt."""
        revision = call.revision
        found = revision.ready(now)
        if call.tried:
            found = [replica for replica in found if replica.id not in call.tried]
        if not revision.ejection.all_in:
            found = [replica for replica in found if replica.standing.takes_calls] or found
        if call.blame.suspect:
            found = [replica for replica in found if replica.suspect is None]
        return found

    # What attempts come to

    def _answered(self, attempt: Attempt, final: Final, now: float) -> list[Command]:
        call = attempt.call
        answer = answer_of(attempt, final)
        lessons.answered(attempt, final, now)
        self.counters.answered(call.schedule.deadline - now)
        self._in_flight.end(attempt, HedgeResult.WON)
        if call.attempt is not None:
            self.counters.cancels[CancelReason.HEDGE] += 1
        commands = self._close(call, HedgeResult.LOST)
        commands.append(Answered(call.id, answer))
        if attempt.source is not None:
            commands += self._hedges.consider_next(attempt.source, now)
        return commands

    def _failed(self, attempt: Attempt, failure: Failure, now: float) -> list[Command]:
        call, code = attempt.call, failure.code
        again = code in self._limits.retry_codes and call.state is not CallState.STREAMING
        if again:
            lessons.refused(attempt, now)
        elif code is ErrorCode.DEADLINE_EXCEEDED:
            lessons.expired(attempt, now)
        self._in_flight.end(attempt)
        call.note_failed(attempt)
        call.tried |= {attempt.replica.id}
        if call.attempt is not None and (again or code in PASSING):
            return self._hedges.consider(call, now)
        if again:
            call.schedule.start_by = NEVER  # it was executed
            return self._retry(call, AttemptReason.ERROR, code, failure.message, now)
        return self._fail(call, code, failure.message)

    def _after_loss(self, attempt: Attempt, innocent: bool, now: float) -> list[Command]:
        """An attempt has ended with its replica; unless it is `innocent`, that may be its doing."""
        call = attempt.call
        if call.state is CallState.SPENT:
            message = "the replica died while it streamed its answer"
            return self._fail(call, ErrorCode.REPLICA_CRASHED, message)
        if not innocent:
            call.blame = replace(call.blame, suspect=True)
        call.schedule.start_by = NEVER  # it may have been executed
        if call.attempt is not None:
            return []  # the other attempt may still answer; it gets no further one beside it
        return self._start_again(call, AttemptReason.LOST, now)

    # What calls come to

    def _retry(
        self, call: OpenCall, reason: AttemptReason, code: ErrorCode, message: str, now: float
    ) -> list[Command]:
        """Try again at another replica: at once the first time, and then after a wait."""
        limits = self._limits
        wait_s = call.revision.admission.retry_after_s(call.priority, call.schedule.deadline - now)
        call.reason = reason
        call.instead = PenstockError(code, message, wait_s)
        call.retries += 1
        if call.retries == 1 or not self._candidates(call, now):
            return self._dispatch(call, now)
        most_s = backoff_s_max(call.retries - 1, limits.backoff_s, limits.backoff_s_max)
        self._parked.add(call, now, wake=now + self._rng.random() * most_s)
        return []

    def _start_again(self, call: OpenCall, reason: AttemptReason, now: float) -> list[Command]:
        """An attempt ended that the throttle has no say in: as if there had been none."""
        call.reason, call.instead, call.tried = reason, None, frozenset()
        return self._resolve_again(call, now)

    def _resolve_again(self, call: OpenCall, now: float) -> list[Command]:
        """Choose a version anew, unless the call is pinned to one, and make an attempt."""
        try:
            route = self._routes.resolve(call.model.name, call.request.version)
        except PenstockError as error:
            return self._fail(call, error.code, error.message, error.retry_after_s)
        if route.revision != call.revision.id:
            revision = self._replicas.revision(route.revision)
            if call.ticket is not None:
                call.revision.admission.closed(call.ticket)
                revision.admission.take_over(call.ticket)
            call.version, call.revision, call.policy = route.version, revision, route.hedge
            call.ordinary = False
        return self._dispatch(call, now)

    def _resolve_all_again(self, calls: list[OpenCall], now: float) -> list[Command]:
        commands: list[Command] = []
        for call in calls:
            commands += self._resolve_again(call, now)
        return commands

    def _retry_suspects(self, revision: Revision, now: float) -> list[Command]:
        """A replica can take a suspect again."""
        first = self._parked.first_suspect(revision)
        return [] if first is None else self._resolve_again(first, now)

    def _give_up(self, call: OpenCall, error: PenstockError) -> list[Command]:
        if error.code is ErrorCode.QUEUE_FULL:
            self.counters.sheds[ShedReason.REPLICAS_FULL] += 1
        return self._fail(call, error.code, error.message, error.retry_after_s)

    def _fail(
        self, call: OpenCall, code: ErrorCode, message: str, retry_after_s: float | None = None
    ) -> list[Command]:
        error = PenstockError(code, message, retry_after_s)
        error.attempts = call.sent
        error.version = call.version
        error.hedged = "failed" if call.hedged else ""
        error.failed = call.failed
        return [*self._close(call), CallFailed(call.id, error)]

    def _close(self, call: OpenCall, result: HedgeResult = HedgeResult.FAILED) -> list[Command]:
        """Forget the call; attempts that are in flight are cancelled."""
        commands: list[Command] = []
        while call.attempt is not None:
            attempt = call.attempt
            self._in_flight.end(attempt, result)
            commands.append(SendCancel(attempt.replica.id, Cancel(attempt.id)))
        if call.state is CallState.PARKED:
            self._parked.remove(call)
        call.on(CallEvent.CLOSE)
        del self._calls[call.id]
        self._intake.close(call)
        return commands


def _next_timer(call: OpenCall) -> float:
    schedule = call.schedule
    is_parked = call.state is CallState.PARKED
    return schedule.next_parked() if is_parked else schedule.next_sent()

"""Every call's way from submission to its one answer: which replica is asked, and when again.

Theory. A call is open until it is resolved, exactly once, by the first of: an answer, a failure
that is final, its deadline, its cancellation. While open it has an *attempt* at a replica, or it
is *parked* because no replica can take it now. Attempts end by an answer, by a Nack (refused before
it was started: go elsewhere at once), or by the loss of the replica. A call that was in a replica
when that was lost becomes a *suspect*: it may have been what killed it. A suspect runs alone, and
before it does, the replica tells that its turn has come and waits for word to proceed. The loss of
a replica after that word names the culprit: that is final.

    parked --replica ready--> attempted --answer--> resolved
      ^                         |   |
      +--Nack, loss-------------+   +--loss in its turn, deadline, cancelled--> resolved

Deadlines are kept by a heap, so that `advance` answers on time whatever a replica does. An answer
that comes after its attempt ended is dropped and counted.

Invariants (tests/unit/gateway/test_dispatch.py): each call resolves exactly once; attempts stay
within `attempts_max`; after the last call is resolved nothing is remembered of any.

Previous stop of a request: `gateway.service`. Next: `gateway.transport`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from gateway.balancer import Rng, choose
from gateway.calls import InferenceAnswer, InferenceCall
from gateway.commands import (
    Answered,
    Command,
    Failed,
    SendCancel,
    SendProceed,
    SendRequest,
    Streamed,
)
from gateway.replicas import Replica, Replicas
from gateway.traffic import Routes
from shared.errors import ErrorCode, PenstockError
from shared.messages import Cancel, Chunk, Final, Nack, NackReason, Proceed, Request
from shared.routing import VersionRoute

NEVER = float("inf")

HEAP_SWEEP_FLOOR = 1024
"""The heap of deadlines is not swept for fewer dead entries than this."""


@dataclass(frozen=True)
class DispatchLimits:
    """Bounds of dispatch.

    Attributes:
        queue_limit: most open calls per model at this gateway; more are shed.
        queue_bytes_limit: most bytes of inputs of open calls at this gateway; more are shed.
        default_timeout_s: deadline of a call when neither it nor its model states one.
        max_timeout_s: no deadline is later than this.
        replica_wait_s: how long a call waits for a replica when none is connected.
        attempts_max: most attempts of one call, whatever their end.
        suspect_retry_s: how long a suspect waits when every replica holds another one.
    """

    queue_limit: int = 2048
    queue_bytes_limit: int = 1024 * 1024 * 1024
    default_timeout_s: float = 30.0
    max_timeout_s: float = 3600.0
    replica_wait_s: float = 5.0
    attempts_max: int = 8
    suspect_retry_s: float = 0.02


class Call:
    """The one record of an open call; the class's attributes tell what is true of most."""

    give_up: float = NEVER  # when parked with no replica connected
    wake: float = NEVER  # when parked until a time
    attempt: int | None = None
    replica: Replica | None = None
    attempts: int = 0
    refused_by: frozenset[str] = frozenset()
    suspect: bool = False
    in_turn: bool = False  # a suspect that was told to proceed
    streaming: bool = False
    sent_at: float = 0.0

    def __init__(
        self,
        call_id: int,
        request: InferenceCall,
        size_bytes: int,
        submitted: float,
        deadline: float,
        route: VersionRoute,
    ) -> None:
        self.id = call_id
        self.request = request
        self.size_bytes = size_bytes
        self.submitted = submitted
        self.deadline = deadline
        self.version = route.version
        self.revision = route.revision


@dataclass
class DispatchCounters:
    """Totals since the start."""

    attempts: int = 0
    lost: int = 0
    nacks: int = 0
    late: int = 0
    expired: int = 0
    cancelled: int = 0
    shed: int = 0


class Dispatch:
    """See the module's docstring. Times are monotonic seconds."""

    def __init__(
        self, limits: DispatchLimits, routes: Routes, replicas: Replicas, rng: Rng
    ) -> None:
        self.counters = DispatchCounters()
        self._limits = limits
        self._routes = routes
        self._replicas = replicas
        self._rng = rng
        self._calls: dict[int, Call] = {}
        self._attempts: dict[int, Call] = {}
        self._parked: OrderedDict[int, Call] = OrderedDict()
        self._open: dict[str, int] = {}
        self._bytes = 0
        self._timers: list[tuple[float, int]] = []
        self._next_attempt = 1

    def __repr__(self) -> str:
        return f"<Dispatch {len(self._calls)} open, {len(self._parked)} parked>"

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def parked(self) -> int:
        """Open calls that no replica can take now."""
        return len(self._parked)

    def open_calls(self) -> dict[str, int]:
        """Open calls by model; models without any are left out."""
        return self._open

    def submit(self, call_id: int, request: InferenceCall, now: float) -> list[Command]:
        """A new call. It may be resolved at once.

        Raises:
            PenstockError: if it is shed, or no version can answer it; then it was never open.
        """
        route = self._routes.resolve(request.model, request.version)
        size_bytes = sum([tensor.nbytes for tensor in request.inputs])
        already_open = self._open.get(request.model, 0)
        self._admit(request.model, already_open, size_bytes)
        limits = self._limits
        timeout_s = request.timeout_s
        if timeout_s is None:
            timeout_s = route.timeout_ms / 1000 if route.timeout_ms else limits.default_timeout_s
        deadline = now + min(timeout_s, limits.max_timeout_s)
        call = Call(call_id, request, size_bytes, now, deadline, route)
        self._calls[call_id] = call
        self._open[request.model] = already_open + 1
        self._bytes += size_bytes
        self._set_timer(deadline, call_id)
        return self._dispatch(call, now)

    def cancel(self, call_id: int) -> list[Command]:
        """Nobody waits for the call any more; it is resolved without a word."""
        call = self._calls.get(call_id)
        if call is None:
            return []
        self.counters.cancelled += 1
        return self._close(call)

    def final(self, replica_id: str, final: Final, now: float) -> list[Command]:
        """A replica answered an attempt."""
        call = self._settle(replica_id, final.attempt_id)
        if call is None:
            return []
        commands = self._close(call)
        commands.append(_outcome(call, final))
        return commands + self._retry_parked(now, suspects=True) if call.suspect else commands

    def chunk(self, replica_id: str, chunk: Chunk) -> list[Command]:
        """A replica sent a part of an answer; from now on there is no way back."""
        call = self._attempts.get(chunk.attempt_id)
        if call is None or call.replica is None or call.replica.id != replica_id:
            self.counters.late += 1
            return []
        call.streaming = True
        return [Streamed(call.id, chunk)]

    def suspect_turn(self, replica_id: str, attempt_id: int) -> list[Command]:
        """A replica is about to execute a suspect."""
        call = self._attempts.get(attempt_id)
        if call is None or call.replica is None or call.replica.id != replica_id:
            self.counters.late += 1
            return [SendCancel(replica_id, Cancel(attempt_id))]
        call.in_turn = True
        return [SendProceed(replica_id, Proceed(attempt_id))]

    def nack(self, replica_id: str, nack: Nack, now: float) -> list[Command]:
        """A replica refused an attempt before it started it."""
        call = self._settle(replica_id, nack.attempt_id)
        if call is None:
            return []
        self.counters.nacks += 1
        if nack.reason is NackReason.DRAINING:
            replica = self._replicas.get(replica_id)
            if replica is not None:
                replica.draining = True
            return self._resolve_again(call, now)
        call.refused_by |= {replica_id}
        if nack.reason is NackReason.SUSPECT_BUSY:
            return self._park(call, now, wake=now + self._limits.suspect_retry_s)
        return self._dispatch(call, now)

    def refused(self, attempt_id: int, replica_id: str, now: float) -> list[Command]:
        """An attempt could not be sent, because the way to the replica is full."""
        return self.nack(replica_id, Nack(attempt_id, NackReason.FULL), now)

    def replica_ready(self, now: float) -> list[Command]:
        """A replica became ready, or routes changed: what is parked may have somewhere to go."""
        return self._retry_parked(now)

    def replica_lost(self, replica: Replica, now: float) -> list[Command]:
        """A replica, already removed, is gone with all that it held."""
        commands: list[Command] = []
        lost = [self._attempts.pop(attempt_id) for attempt_id in list(replica.attempts)]
        for call in lost:
            self.counters.lost += 1
            commands += self._after_loss(call, now)
        return commands

    def advance(self, now: float) -> list[Command]:
        """Time passed: answer what expired, try again what was parked until now."""
        commands: list[Command] = []
        while self._timers and self._timers[0][0] <= now:
            _, call_id = heapq.heappop(self._timers)
            call = self._calls.get(call_id)
            if call is not None:
                commands += self._timer_fired(call, now)
        return commands

    def next_deadline(self) -> float | None:
        """When `advance` must be called at the latest; None: not by itself."""
        while self._timers and self._timers[0][1] not in self._calls:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def _admit(self, model: str, already_open: int, size_bytes: int) -> None:
        if already_open >= self._limits.queue_limit:
            self.counters.shed += 1
            raise PenstockError(
                ErrorCode.QUEUE_FULL,
                f"the queue of model {model!r} is full ({self._limits.queue_limit} calls)",
                1.0,
            )
        if self._calls and self._bytes + size_bytes > self._limits.queue_bytes_limit:
            self.counters.shed += 1
            raise PenstockError(
                ErrorCode.QUEUE_FULL,
                f"the gateway holds as many bytes of requests as it may "
                f"({self._limits.queue_bytes_limit})",
                1.0,
            )

    def _dispatch(self, call: Call, now: float) -> list[Command]:
        """Start an attempt at a replica that can take it, or park the call."""
        ready = self._replicas.ready(call.revision, now)
        candidates = [r for r in ready if r.id not in call.refused_by] if call.refused_by else ready
        if call.suspect:
            candidates = [replica for replica in candidates if replica.suspect is None]
        replica = choose(candidates, self._rng)
        if replica is not None:
            if call.attempts >= self._limits.attempts_max:
                return self._fail(call, ErrorCode.UNAVAILABLE, "no replica accepted the call", 1.0)
            return self._attempt(call, replica, now)
        if ready and not call.suspect:
            message = f"every replica of model {call.request.model!r} is full"
            return self._fail(call, ErrorCode.QUEUE_FULL, message, 1.0)
        if ready:
            return self._park(call, now, wake=now + self._limits.suspect_retry_s)
        return self._park(call, now)

    def _attempt(self, call: Call, replica: Replica, now: float) -> list[Command]:
        attempt_id = self._next_attempt
        self._next_attempt += 1
        if self._parked:
            self._parked.pop(call.id, None)
            call.give_up = call.wake = NEVER
        call.attempt = attempt_id
        call.replica = replica
        call.attempts += 1
        call.sent_at = now
        self._attempts[attempt_id] = call
        inputs = call.request.inputs
        replica.assign(attempt_id, inputs[0].rows if inputs else 1, suspect=call.suspect)
        self.counters.attempts += 1
        request = Request(
            attempt_id,
            max(int((call.deadline - now) * 1e6), 0),
            inputs,
            call.request.priority,
            call.suspect,
            call.request.traceparent,
            call.request.outputs,
            call.request.parameters,
        )
        return [SendRequest(replica.id, request, call.attempts)]

    def _settle(self, replica_id: str, attempt_id: int) -> Call | None:
        """End an attempt; None (and counted) if it had ended before."""
        call = self._attempts.get(attempt_id)
        if call is None or call.replica is None or call.replica.id != replica_id:
            self.counters.late += 1
            return None
        del self._attempts[attempt_id]
        call.replica.settle(attempt_id)
        call.attempt = call.replica = None
        call.in_turn = False
        return call

    def _resolve_again(self, call: Call, now: float) -> list[Command]:
        """The replica drains: choose a version anew, unless the call is pinned to one."""
        try:
            route = self._routes.resolve(call.request.model, call.request.version)
        except PenstockError as error:
            return self._fail(call, error.code, error.message, error.retry_after_s)
        call.version, call.revision = route.version, route.revision
        return self._dispatch(call, now)

    def _after_loss(self, call: Call, now: float) -> list[Command]:
        call.attempt = call.replica = None
        if call.in_turn or call.streaming:
            message = (
                f"the replica that executed this request alone died, twice in a row: model "
                f"{call.request.model!r} version {call.version}"
                if call.in_turn
                else "the replica died while it streamed its answer"
            )
            return self._fail(call, ErrorCode.REPLICA_CRASHED, message)
        call.suspect = True
        return self._resolve_again(call, now)

    def _park(self, call: Call, now: float, wake: float = NEVER) -> list[Command]:
        self._parked[call.id] = call
        call.wake = wake
        if wake < call.deadline:
            self._set_timer(wake, call.id)
        elif call.give_up == NEVER and not self._replicas.connected(call.revision):
            call.give_up = now + self._limits.replica_wait_s
            self._set_timer(call.give_up, call.id)
        return []

    def _timer_fired(self, call: Call, now: float) -> list[Command]:
        if call.deadline <= now:
            self.counters.expired += 1
            message = f"no answer within {call.deadline - call.submitted:.3f} s"
            return self._fail(call, ErrorCode.DEADLINE_EXCEEDED, message)
        if call.id not in self._parked:
            return []
        if call.wake <= now:
            call.refused_by = frozenset()
            return self._resolve_again(call, now)
        if call.give_up <= now:
            call.give_up = NEVER
            if not self._replicas.connected(call.revision):
                message = f"no replica of model {call.request.model!r} is ready"
                return self._fail(call, ErrorCode.NO_READY_REPLICA, message, 1.0)
        return []

    def _retry_parked(self, now: float, *, suspects: bool = False) -> list[Command]:
        """Try the parked calls again, in order; only the suspects among them if so asked."""
        commands: list[Command] = []
        for call in list(self._parked.values()):
            if call.id in self._parked and (call.suspect or not suspects):
                commands += self._resolve_again(call, now)
        return commands

    def _fail(
        self, call: Call, code: ErrorCode, message: str, retry_after_s: float | None = None
    ) -> list[Command]:
        failed = Failed(call.id, PenstockError(code, message, retry_after_s))
        return [*self._close(call), failed]

    def _close(self, call: Call) -> list[Command]:
        """Forget the call; its attempt, if one runs, is cancelled."""
        commands: list[Command] = []
        del self._calls[call.id]
        if self._parked:
            self._parked.pop(call.id, None)
        self._bytes -= call.size_bytes
        remaining = self._open[call.request.model] - 1
        if remaining:
            self._open[call.request.model] = remaining
        else:
            del self._open[call.request.model]
        if call.attempt is not None and call.replica is not None:
            del self._attempts[call.attempt]
            call.replica.settle(call.attempt)
            commands.append(SendCancel(call.replica.id, Cancel(call.attempt)))
        return commands

    def _set_timer(self, when: float, call_id: int) -> None:
        heapq.heappush(self._timers, (when, call_id))
        if len(self._timers) > 2 * len(self._calls) + HEAP_SWEEP_FLOOR:
            self._timers = [entry for entry in self._timers if entry[1] in self._calls]
            heapq.heapify(self._timers)


def _outcome(call: Call, final: Final) -> Command:
    """What the caller is told."""
    if final.failure is not None:
        return Failed(call.id, PenstockError(final.failure.code, final.failure.message))
    answer = InferenceAnswer(
        call.request.model,
        call.version,
        final.outputs,
        call.sent_at - call.submitted + final.queue_us / 1e6,
        final.infer_us / 1e6,
        call.attempts,
        final.batch_rows,
    )
    return Answered(call.id, answer)

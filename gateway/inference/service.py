"""Inference as a service, whatever protocol a request came by: the story of a call.

A call is submitted to `Dispatch`, which decides; this shell carries its decisions out: it sends
attempts through the transport, hears the replicas, keeps the one timer that dispatch asks for, and
tells whoever waits.

Previous stop of a request: `penstock.gateway.http.call_route`. Next:
`penstock.gateway.dispatch.dispatch`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from pydantic import ValidationError

from penstock.gateway.dispatch.commands import (
    Answered,
    CallFailed,
    Command,
    SendCancel,
    SendProbe,
    SendProceed,
    SendRequest,
    Streamed,
)
from penstock.gateway.dispatch.counters import DispatchCounters
from penstock.gateway.dispatch.dispatch import Dispatch
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.replicas import Replica, Replicas, Revision
from penstock.gateway.inference.large_calls import LargeCalls
from penstock.gateway.inference.port import CallOutcome
from penstock.gateway.inference.readiness import why_not_ready
from penstock.gateway.inference.spans import AttemptSpans
from penstock.gateway.inference.types import (
    DeployedModel,
    InferenceAnswer,
    InferenceCall,
    ModelMetadata,
)
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.gateway.routing.traffic import Routes
from penstock.gateway.transport.router import Transport
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.process.clock import Clock
from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.tracing import Tracer
from penstock.shared.wire.curve import GatewayKeys
from penstock.shared.wire.messages import (
    Alone,
    Chunk,
    Drain,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    Probe,
    Request,
    SuspectTurn,
)

log = get_logger("service")

READINESS_LOOK_S = 0.5
"""How often readiness is looked at when nothing was heard that could change it."""

FAREWELL_LINGER_MS = 1000
"""Longest that the last messages to replicas may take to leave."""


class InferenceService:
    """The shell around `Dispatch`; implements `penstock.gateway.inference.port.Inference`
    and `penstock.gateway.transport.router.Receiver`.

    Args:
        endpoint: where replicas dial in.
        incarnation: this life of this gateway.
        limits: bounds of dispatch.
        silence_s: how long a replica may be silent and still be sent calls.
        ready_when: readiness needs `any` or `all` deployed models ready.
        on_change: called when readiness of replicas or the routing generation changed.
        keys: which workers may connect over tcp.
        tracer: records attempts of calls whose trace is recorded; None: nothing is.
        held: what the gateway holds; None: a budget of its own.
    """

    def __init__(
        self,
        endpoint: str,
        incarnation: str,
        limits: DispatchLimits,
        silence_s: float,
        ready_when: Literal["any", "all"],
        clock: Clock,
        on_change: Callable[[], None],
        keys: GatewayKeys | None = None,
        tracer: Tracer | None = None,
        held: HeldBytes | None = None,
    ) -> None:
        self._clock = clock
        self._spans = AttemptSpans(tracer) if tracer is not None else None
        self._ready_when = ready_when
        self._on_change = on_change
        self._routes = Routes()
        self._replicas = Replicas(silence_s, limits.revisions)
        held = held or HeldBytes()
        self._dispatch = Dispatch(limits, self._routes, self._replicas, random.Random(), held)
        self._large = LargeCalls(
            self,
            self._dispatch,
            routes=self._routes,
            replicas=self._replicas,
            clock=clock,
            later=_later,
            held=held,
        )
        self._transport = Transport(endpoint, incarnation, self, keys)
        self._waiting: dict[int, Callable[[CallOutcome], None]] = {}
        self._interfaces: dict[str, ModelInterface] = {}
        self._metadata: dict[tuple[str, str | None], ModelMetadata] = {}  # found out before
        self._next_call = 1
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = float("inf")
        self._draining = False
        self._store_answers: bool | None = None
        self._ready_counts: dict[str, int] = {}
        self._readiness_unsure = False

    async def run(self) -> None:
        """Serve until cancelled; then say goodbye to the replicas."""
        self._transport.bind()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._transport.probe_forever())
                tasks.create_task(self._watch_readiness())
        finally:
            for replica in self._replicas:
                self._transport.send(replica.id, Drain())
            self._transport.close(FAREWELL_LINGER_MS)

    # What the protocols in front need

    def why_not_ready(self) -> str:
        when, store = self._ready_when, self._store_answers
        return why_not_ready(self._draining, self._routes, store, when, self._route_ready)

    def model_ready(self, model: str, version: str | None) -> bool:
        try:
            route = self._routes.resolve(model, version)
        except PenstockError as error:
            if error.code in (ErrorCode.NO_READY_REPLICA, ErrorCode.NOT_SERVABLE):
                return False
            raise
        return self._version_ready(route, self._clock.monotonic())

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        known = self._metadata.get((model, version))
        if known is None:
            known = self._metadata[model, version] = self._find_metadata(model, version)
        return known

    def _find_metadata(self, model: str, version: str | None) -> ModelMetadata:
        route = self._routes.resolve(model, version)
        interface = self._replicas.interface(route.revision) or self._interfaces.get(route.revision)
        if interface is None:
            message = f"no replica of model {model!r} version {route.version} is ready"
            error = PenstockError(ErrorCode.NO_READY_REPLICA, message, 1.0)
            error.version = route.version
            raise error
        versions = tuple(v.version for v in self._routes.models()[model].versions)
        return ModelMetadata(model, versions, interface, route.jobs == "only")

    def route(self, model: str, version: str | None) -> VersionRoute:
        return self._routes.resolve(model, version)

    def deployed_models(self) -> tuple[DeployedModel, ...]:
        now = self._clock.monotonic()
        return tuple(
            DeployedModel(
                name,
                tuple((v.version, self._version_ready(v, now)) for v in r.versions),
                r.reason,
            )
            for name, r in sorted(self._routes.models().items())
        )

    async def infer(self, call: InferenceCall) -> InferenceAnswer:
        future: asyncio.Future[CallOutcome] = asyncio.get_running_loop().create_future()
        call_id = self.submit(call, partial(_resolve, future))
        try:
            outcome = await future
        except asyncio.CancelledError:
            self.cancel(call_id)
            raise
        if isinstance(outcome, PenstockError):
            raise outcome
        return outcome

    def submit(self, call: InferenceCall, on_outcome: Callable[[CallOutcome], None]) -> int:
        inputs = call.inputs
        if inputs and inputs[0].rows > 1 and self._large.takes(call):
            call_id = self._next_call
            self._next_call += 1
            self._large.submit(call_id, call, on_outcome)
            return call_id
        return self.submit_piece(call, on_outcome)

    def submit_piece(self, call: InferenceCall, on_outcome: Callable[[CallOutcome], None]) -> int:
        """Start what is one execution: a call, or a piece of a large one."""
        call_id = self._next_call
        self._next_call += 1
        self._waiting[call_id] = on_outcome
        now = self._clock.monotonic()
        try:
            commands = self._dispatch.submit(call_id, call, now)
        except PenstockError:
            del self._waiting[call_id]
            raise
        self._carry_out(commands)
        self._arm_timer(now)
        return call_id

    def cancel(self, call_id: int) -> None:
        if self._waiting.pop(call_id, None) is not None:
            self._carry_out(self._dispatch.cancel(call_id))
        else:
            self._large.cancel(call_id)

    # What the rest of the gateway needs

    @property
    def generation(self) -> int:
        """Generation of the routing table that calls go by."""
        return self._routes.generation

    @property
    def endpoint(self) -> str:
        """Where replicas dial in."""
        return self._transport.endpoint

    @property
    def counters(self) -> DispatchCounters:
        """Totals of dispatch."""
        return self._dispatch.counters

    @property
    def large_calls(self) -> LargeCalls:
        """Requests that go in pieces."""
        return self._large

    @property
    def copied_bytes(self) -> int:
        """Bytes of messages to and from replicas that were copied."""
        return self._transport.copied_bytes

    @property
    def parked_calls(self) -> int:
        """Open calls that no replica can take now."""
        return self._dispatch.parked

    def open_calls(self) -> dict[str, int]:
        """Calls that wait for their answer, by model; models without any are left out."""
        return {model.name: model.open for model in self._dispatch.models() if model.open}

    def called_models(self) -> list[ModelState]:
        """Each model that was called: its open calls, and what it may spend on extra attempts."""
        return self._dispatch.models()

    def routes(self) -> Mapping[str, ModelRoute]:
        """Routes by model; not to be changed."""
        return self._routes.models()

    def revisions(self) -> list[Revision]:
        """Each revision that is here or routed."""
        return self._replicas.revisions()

    def ready_counts(self) -> dict[str, int]:
        """Replicas that are ready, by revision; those for jobs alone are among them."""
        return self._replicas.ready_counts(self._clock.monotonic())

    @property
    def knows_routes(self) -> bool:
        """Whether the store, or any replica, has told of routes."""
        return self._routes.known

    def settled(self) -> bool:
        """Whether every routed model that can have one has a replica here."""
        routes = [route for route in self._routes.models().values() if route.versions]
        return self._routes.known and all(self._route_ready(route) for route in routes)

    def take_routing(self, table: RoutingTable) -> None:
        """A routing table was read from the state store."""
        if self._routes.take_table(table):
            log.info("routing changed", generation=table.generation)
            self._routes_changed()

    def store_answered(self, answers: bool) -> None:
        """The state store was asked for routes."""
        self._store_answers = answers

    def begin_drain(self) -> None:
        """The gateway leaves: readiness says so from now on; calls are still answered."""
        self._draining = True

    # What the transport tells

    def message_received(self, replica_id: str, message: Message) -> None:
        now = self._clock.monotonic()
        replica = self._replicas.get(replica_id)
        if replica is not None:
            self._readiness_unsure |= now - replica.heard_at >= READINESS_LOOK_S
            replica.heard_at = now
        if self._spans is not None:
            self._spans.heard(message)
        match message:
            case Final():
                self._carry_out(self._dispatch.final(replica_id, message, now))
            case Load() if replica is not None:
                self._dispatch.load(replica, message, now)
            case Nack():
                self._carry_out(self._dispatch.nack(replica_id, message, now))
            case SuspectTurn(attempt_id):
                self._carry_out(self._dispatch.suspect_turn(replica_id, attempt_id))
            case Alone(active) if replica is not None:
                replica.alone = active
            case Chunk():
                self._carry_out(self._dispatch.chunk(replica_id, message))
            case Drain() if replica is not None:
                replica.draining = True
                self._readiness_unsure = True
            case Hello():
                self._introduced(replica_id, message, now)
            case Load() | Drain() | Alone():
                pass  # of a replica that was given up; the next probe asks who it is
            case _:
                log.warning("unexpected message", replica=replica_id, kind=type(message).__name__)

    def knows(self, replica_id: str) -> bool:
        return self._replicas.get(replica_id) is not None

    def messages_done(self) -> None:
        self._arm_timer(self._clock.monotonic())
        if self._readiness_unsure:
            self._compare_readiness()

    def not_sent(self, replica_id: str, request: Request) -> None:
        if self._spans is not None:
            self._spans.end(request.attempt_id, "not_sent")
        now = self._clock.monotonic()
        self._carry_out(self._dispatch.refused(request.attempt_id, replica_id, now))
        self._arm_timer(now)

    def not_encoded(self, replica_id: str, request: Request) -> None:
        if self._spans is not None:
            self._spans.end(request.attempt_id, "not_encoded")
        now = self._clock.monotonic()
        self._carry_out(self._dispatch.not_encoded(request.attempt_id, replica_id, now))
        self._arm_timer(now)

    def replica_lost(self, replica_id: str) -> None:
        replica = self._replicas.remove(replica_id)
        if replica is None:
            return
        log.info("replica lost", replica=replica_id, in_flight=len(replica.attempts))
        if self._spans is not None:
            self._spans.lost(replica.attempts)
        now = self._clock.monotonic()
        self._metadata.clear()
        self._carry_out(self._dispatch.replica_lost(replica, now))
        self._arm_timer(now)
        self._compare_readiness()

    def _introduced(self, replica_id: str, hello: Hello, now: float) -> None:
        try:
            interface = ModelInterface.model_validate_json(hello.interface)
            route = ModelRoute.model_validate_json(hello.route) if hello.route else None
        except ValidationError as error:
            log.warning("replica with a malformed hello", replica=replica_id, reason=str(error))
            return
        known = self._replicas.get(replica_id)
        if known is not None and known.interface != interface:
            known.interface = interface
            self._replicas.revision(hello.revision).announced()
            self._announced(hello.revision)
            log.info("replica takes something else now", replica=replica_id)
        if known is None:
            record = Replica(
                id=replica_id,
                worker=hello.worker,
                model=hello.model,
                version=hello.version,
                revision=hello.revision,
                interface=interface,
                heard_at=now,
                takes_calls=hello.takes_calls,
            )
            self._replicas.add(record)
            self._announced(hello.revision)
            self._readiness_unsure = True
            log.info("replica joined", replica=replica_id, revision=hello.revision)
        if route is not None and self._routes.take_announced(route):
            self._routes_changed()
        self._carry_out(self._dispatch.replica_ready(now))

    def _announced(self, revision: str) -> None:
        """What a revision takes may be something else now; it is known when no replica is there."""
        interface = self._replicas.interface(revision)
        if interface is not None:
            self._interfaces[revision] = interface
        self._metadata.clear()

    def _routes_changed(self) -> None:
        self._metadata.clear()
        routed = {v.revision for r in self._routes.models().values() for v in r.versions}
        self._interfaces = {
            revision: interface
            for revision, interface in self._interfaces.items()
            if revision in routed or self._replicas.connected(revision)
        }
        now = self._clock.monotonic()
        self._carry_out(self._dispatch.routes_changed(now))
        self._arm_timer(now)
        self._on_change()

    def _route_ready(self, route: ModelRoute) -> bool:
        now = self._clock.monotonic()
        return any(self._version_ready(version, now) for version in route.versions)

    def _version_ready(self, route: VersionRoute, now: float) -> bool:
        """Whether a replica is ready for what the version takes."""
        if route.jobs == "only":
            return self._replicas.ready_for_jobs(route.revision, now) > 0
        return bool(self._replicas.ready(route.revision, now))

    async def _watch_readiness(self) -> None:
        """Silence makes no event of its own: look for it."""
        while True:
            await asyncio.sleep(READINESS_LOOK_S)
            self._compare_readiness()

    def _compare_readiness(self) -> None:
        self._readiness_unsure = False
        counts = self.ready_counts()
        changed = counts != self._ready_counts
        self._ready_counts = counts
        if changed or self._dispatch.parked:  # by silence that has ended since, too
            now = self._clock.monotonic()
            self._carry_out(self._dispatch.replica_ready(now))
            self._arm_timer(now)
        if changed:
            self._on_change()

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case SendRequest():
                    request = command.request
                    if self._spans is not None:
                        replica = self._replicas.get(command.replica)
                        request = self._spans.begin(request, command.number, replica)
                    self._transport.send(command.replica, request)
                case Answered():
                    self._tell(command.call_id, command.answer)
                case CallFailed(call_id, error):
                    self._tell(call_id, error)
                case SendProbe(replica_id):
                    self._transport.send(replica_id, Probe(known=True))
                case SendProceed(replica_id, proceed):
                    self._transport.send(replica_id, proceed)
                case SendCancel(replica_id, cancel):
                    if self._spans is not None:
                        self._spans.end(cancel.attempt_id, "cancelled")
                    self._transport.send(replica_id, cancel)
                case Streamed():
                    pass  # no protocol in front streams yet

    def _tell(self, call_id: int, outcome: CallOutcome) -> None:
        on_outcome = self._waiting.pop(call_id, None)
        if on_outcome is not None:
            on_outcome(outcome)

    def _arm_timer(self, now: float) -> None:
        """Have `advance` called when dispatch wants it; an earlier call does no harm."""
        deadline = self._dispatch.next_deadline()
        if deadline is None or deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(deadline - now, 0.0), self._advance)

    def _advance(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = self._clock.monotonic()
        self._carry_out(self._dispatch.advance(now))
        self._arm_timer(now)


def _later(delay_s: float, call: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(delay_s, call)


def _resolve(future: asyncio.Future[CallOutcome], outcome: CallOutcome) -> None:
    if not future.done():
        future.set_result(outcome)

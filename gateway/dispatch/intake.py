"""The way in: which calls are accepted, and what is kept of them and of their models meanwhile."""

from __future__ import annotations

from typing import Final

from penstock.gateway.dispatch.attempts import NEVER, OpenCall
from penstock.gateway.dispatch.counters import DispatchCounters, ShedReason
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.model_state import ModelState
from penstock.gateway.dispatch.replicas import Replicas, Revision
from penstock.gateway.inference.types import InferenceCall
from penstock.gateway.memory.held_bytes import OPEN, SMALL_BYTES_MAX, HeldBytes
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import VersionRoute

FREE_SHARES_MAX: Final = 8
"""A model that has open calls may hold so many times the bytes that are free. One alone gets 8/9 of
the limit; n of them that take all they get have 8/(8n + 1) each; and to a model that has nothing
open, something is left in each case, without which a flood of one would keep out all others."""


class LargeTicket:
    """A request that was let in to go in pieces.

    Attributes:
        version: the one that answers all of its pieces.
        rows_waiting: those that were not sent yet.
        submitted, deadline: monotonic seconds.
        start_by: when the first piece must have been sent, likewise.
    """

    __slots__ = (
        "deadline",
        "model",
        "revision",
        "rows_waiting",
        "size_bytes",
        "start_by",
        "submitted",
        "version",
    )

    def __init__(
        self,
        *,
        model: ModelState,
        version: str,
        revision: Revision,
        size_bytes: int,
        rows: int,
        submitted: float,
        deadline: float,
        start_by: float,
    ) -> None:
        self.model = model
        self.version = version
        self.revision = revision
        self.size_bytes = size_bytes
        self.rows_waiting = rows
        self.submitted = submitted
        self.deadline = deadline
        self.start_by = start_by

    def __repr__(self) -> str:
        return f"<LargeTicket {self.model.name!r}, {self.rows_waiting} rows wait>"

    def sent(self, rows: int) -> None:
        """So many rows were sent."""
        self.rows_waiting -= rows
        self.revision.admission.large_sent(rows)

    def begin_again(self, version: str, revision: Revision, rows: int) -> None:
        """Another version is to answer all of it."""
        self.sent(self.rows_waiting)
        self.version, self.revision, self.rows_waiting = version, revision, rows
        revision.admission.large_begins_again(rows)


class Intake:
    """Accepts calls, and gives back what they took. Used by `penstock.gateway.dispatch.dispatch`.

    Args:
        held: what the gateway holds, open calls among it.
    """

    def __init__(
        self,
        limits: DispatchLimits,
        routes: Routes,
        replicas: Replicas,
        counters: DispatchCounters,
        held: HeldBytes,
    ) -> None:
        self._limits = limits
        self._routes = routes
        self._replicas = replicas
        self._counters = counters
        self._models: dict[str, ModelState] = {}
        self._bytes = 0
        self._held = held

    def __repr__(self) -> str:
        return f"<Intake {len(self._models)} models, {self._bytes} bytes>"

    def models(self) -> list[ModelState]:
        """What is kept of each model that was called."""
        return list(self._models.values())

    def accept(self, call_id: int, request: InferenceCall, now: float) -> OpenCall:
        """A new call, which is open from now on.

        Raises:
            PenstockError: if it is shed, or no version can answer it.
        """
        inputs = request.inputs
        route = self._routes.resolve(request.model, request.version)
        model = self._model(request.model, route)
        revision = self._replicas.revision(route.revision)
        timeout_s = self._timeout_s(request, route)
        piece = request.piece
        size_bytes = 0  # a piece is a view of what is held for the whole
        if not piece:
            size_bytes = self._with_room(request, model, revision, timeout_s)
        rows = inputs[0].rows if inputs and revision.batches else 1
        ticket = revision.admission.admit(rows, request.priority, timeout_s, now, in_any_case=piece)
        if ticket is None:
            raise self._too_much(model, revision, request.priority, timeout_s)
        call = OpenCall(
            call_id=call_id,
            request=request,
            model=model,
            route=route,
            revision=revision,
            ticket=ticket,
            size_bytes=size_bytes,
            submitted=now,
            deadline=now + timeout_s,
        )
        if route.queue_timeout_ms is not None:
            call.schedule.start_by = now + route.queue_timeout_ms / 1000
        self._held.add(OPEN, size_bytes, size_bytes > SMALL_BYTES_MAX)
        model.open += 1
        model.bytes += size_bytes
        model.hedges.earn()
        self._bytes += size_bytes
        return call

    def accept_large(self, request: InferenceCall, rows: int, now: float) -> LargeTicket:
        """A new request that goes in pieces, which is open from now on.

        Raises:
            PenstockError: if it is shed, or no version can answer it.
        """
        route = self._routes.resolve(request.model, request.version)
        model = self._model(request.model, route)
        revision = self._replicas.revision(route.revision)
        timeout_s = self._timeout_s(request, route)
        size_bytes = self._with_room(request, model, revision, timeout_s)
        if not revision.admission.admit_large(rows, request.priority, timeout_s):
            raise self._too_much(model, revision, request.priority, timeout_s)
        self._held.add(OPEN, size_bytes, size_bytes > SMALL_BYTES_MAX)
        model.open += 1
        model.bytes += size_bytes
        self._bytes += size_bytes
        start_by = NEVER
        if route.queue_timeout_ms is not None:
            start_by = now + route.queue_timeout_ms / 1000
        return LargeTicket(
            model=model,
            version=route.version,
            revision=revision,
            size_bytes=size_bytes,
            rows=rows,
            submitted=now,
            deadline=now + timeout_s,
            start_by=start_by,
        )

    def close_large(self, ticket: LargeTicket) -> None:
        """An accepted request that went in pieces is over."""
        self._forget(ticket.model, ticket.size_bytes)
        ticket.sent(ticket.rows_waiting)

    def close(self, call: OpenCall) -> None:
        """An accepted call is over."""
        self._forget(call.model, call.size_bytes)
        if call.ticket is not None:
            call.revision.admission.closed(call.ticket)

    def _forget(self, model: ModelState, size_bytes: int) -> None:
        self._held.give_back(OPEN, size_bytes, size_bytes > SMALL_BYTES_MAX)
        self._bytes -= size_bytes
        model.bytes -= size_bytes
        model.open -= 1

    def _model(self, name: str, route: VersionRoute) -> ModelState:
        model = self._models.get(name)
        if model is None:
            model = ModelState(name, self._limits.throttle, route.hedge_budget)
            self._models[name] = model
        return model

    def _timeout_s(self, request: InferenceCall, route: VersionRoute) -> float:
        """How long the request may take: what it says, or its model, or the gateway."""
        timeout_s, limits = request.timeout_s, self._limits
        if timeout_s is None:
            timeout_s = route.timeout_ms / 1000 if route.timeout_ms else limits.default_timeout_s
        return min(timeout_s, limits.max_timeout_s)

    def _with_room(
        self, request: InferenceCall, model: ModelState, revision: Revision, timeout_s: float
    ) -> int:
        """Bytes of a request for which there is room.

        Raises:
            PenstockError: QUEUE_FULL.
        """
        size_bytes = 0
        for tensor in request.inputs:
            size_bytes += tensor.nbytes
        limits = self._limits
        free_bytes = limits.queue_bytes_limit - self._bytes
        if (
            model.open >= limits.queue_limit
            or size_bytes > free_bytes
            or model.bytes + size_bytes > FREE_SHARES_MAX * free_bytes
        ):
            wait_s = revision.admission.retry_after_s(request.priority, timeout_s)
            self._check_bounds(model, size_bytes, wait_s)
        if not self._held.has_room(size_bytes, size_bytes > SMALL_BYTES_MAX):
            self._counters.sheds[ShedReason.BYTES] += 1
            raise self._held.refusal()
        return size_bytes

    def _too_much(
        self, model: ModelState, revision: Revision, priority: int, timeout_s: float
    ) -> PenstockError:
        """The error of a request that would probably not be answered in time."""
        wait_s = revision.admission.retry_after_s(priority, timeout_s)
        message = f"model {model.name!r} has too much to do to answer within {timeout_s:.3f} s"
        return self._shed(ShedReason.BACKLOG, message, wait_s)

    def routes_changed(self) -> None:
        """Keep what is kept for models that are routed or called, and no others."""
        routes = self._routes.models()
        for model in self.models():
            route = routes.get(model.name)
            if route is not None and route.versions:
                model.budget_set(route.versions[0].hedge_budget)
            elif route is None and not model.open:
                del self._models[model.name]
        routed = {version.revision for route in routes.values() for version in route.versions}
        self._replicas.keep(routed)

    def _check_bounds(self, model: ModelState, size_bytes: int, wait_s: float) -> None:
        """One of the bounds is reached, or a model has more than its share of bytes."""
        limits = self._limits
        if model.open >= limits.queue_limit:
            message = f"the queue of model {model.name!r} is full ({limits.queue_limit} calls)"
            raise self._shed(ShedReason.CALLS, message, wait_s)
        free_bytes = limits.queue_bytes_limit - self._bytes
        if size_bytes > free_bytes or model.bytes:
            message = (
                f"open calls hold as many bytes as they may ({limits.queue_bytes_limit}), or those "
                f"of model {model.name!r} more than their share"
            )
            raise self._shed(ShedReason.BYTES, message, wait_s)

    def _shed(self, reason: ShedReason, message: str, wait_s: float) -> PenstockError:
        self._counters.sheds[reason] += 1
        return PenstockError(ErrorCode.QUEUE_FULL, message, wait_s)

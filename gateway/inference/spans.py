"""A span for each attempt of a call whose trace is recorded, from its sending to its end.

The parent is the span that the call's trace context names (see `penstock.gateway.http.traced_app`);
the replica's own span is a child of the attempt's. There is at most one span for each open attempt,
because every attempt ends in one of the ways that `penstock.gateway.inference.service` tells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from penstock.gateway.dispatch.replicas import Replica
from penstock.shared.process.tracing import Attributes, Span, SpanRole, Tracer, is_sampled
from penstock.shared.wire.messages import Final, Message, Nack, Request


class AttemptSpans:
    """Used by the service when there is a tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._open: dict[int, Span] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, request: Request, number: int, replica: Replica | None) -> Request:
        """An attempt is to be sent: the request as it is to be sent, with its span's context."""
        if replica is None or not is_sampled(request.traceparent):
            return request
        attributes: Attributes = {
            "penstock.model": replica.model,
            "penstock.version": replica.version,
            "penstock.replica": replica.id,
            "penstock.worker": replica.worker,
            "penstock.attempt": number,
            "penstock.suspect": request.suspect,
            "penstock.budget_ms": request.budget_us / 1000,
        }
        span = self._tracer.start("attempt", SpanRole.CLIENT, request.traceparent, attributes)
        if span is None:
            return request
        self._open[request.attempt_id] = span
        return replace(request, traceparent=span.context)

    def heard(self, message: Message) -> None:
        """A replica said something; it may end an attempt."""
        match message:
            case Final(failure=None):
                self.end(message.attempt_id, "ok")
            case Final(failure=failure) if failure is not None:
                self.end(message.attempt_id, failure.code.value)
            case Nack():
                self.end(message.attempt_id, f"nack_{message.reason.name.lower()}")
            case _:
                pass

    def lost(self, attempt_ids: Iterable[int]) -> None:
        """The replica died with these attempts."""
        for attempt_id in attempt_ids:
            self.end(attempt_id, "lost")

    def end(self, attempt_id: int, outcome: str) -> None:
        """An attempt ended, if it has a span."""
        span = self._open.pop(attempt_id, None)
        if span is not None:
            span.note({"penstock.outcome": outcome})
            span.end("" if outcome == "ok" else outcome)

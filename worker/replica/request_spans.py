"""Spans of a replica: one for each request whose trace is recorded, one for each batch of such.

A request's span begins when it comes in and ends when its answer leaves; between lie its time in
the queue and its batch's execution. A batch's span is a child of the first recorded request in it,
and links to the spans of all of them; theirs link to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.shared.process.tracing import Attributes, Span, SpanRole, Tracer, is_sampled
from penstock.shared.wire.messages import Cancel, Final, Message, Nack, Request
from penstock.worker.session.batching import Item, Key
from penstock.worker.session.outcomes import Completed, Outcome

SPANS_MAX = 8192
"""Open spans; the oldest beyond that are of gateways that went away, and end unanswered."""


class RequestSpans:
    """Used by the replica's loop when there is a tracer.

    Args:
        model, version: what the replica has loaded.
    """

    def __init__(self, tracer: Tracer, model: str, version: str) -> None:
        self._tracer = tracer
        self._model: Attributes = {"penstock.model": model, "penstock.version": version}
        self._open: dict[Key, Span] = {}
        self._batch: Span | None = None

    def __len__(self) -> int:
        return len(self._open)

    def received(self, link: str, message: Message) -> None:
        """A gateway said something."""
        match message:
            case Request() if is_sampled(message.traceparent):
                self._begin((link, message.attempt_id), message)
            case Cancel():
                self._end((link, message.attempt_id), "cancelled", 0, 0, 0)
            case _:
                pass

    def executing(self, items: Sequence[Item], reason: str) -> None:
        """A batch is about to run."""
        if not self._open:
            return
        members = [span for item in items if (span := self._open.get(item.key)) is not None]
        if not members:
            return
        attributes: Attributes = {
            **self._model,
            "penstock.batch.rows": sum(item.rows for item in items),
            "penstock.batch.requests": len(items),
            "penstock.batch.reason": reason,
        }
        parent = members[0].context
        self._batch = self._tracer.start("batch", SpanRole.INTERNAL, parent, attributes, members)
        for member in members:
            member.event("executing")
            if self._batch is not None:
                member.link(self._batch)

    def executed(self, outcome: Outcome) -> None:
        """The batch has run."""
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.note({"penstock.infer_ms": outcome.infer_s * 1000})
            batch.end("" if isinstance(outcome, Completed) else outcome.kind.value)

    def sent(self, link: str, message: Message) -> None:
        """The replica says something to a gateway."""
        match message:
            case Final():
                outcome = message.failure.code.value if message.failure else "ok"
                times = (message.queue_us, message.infer_us, message.batch_rows)
                self._end((link, message.attempt_id), outcome, *times)
            case Nack():
                reason = f"nack_{message.reason.name.lower()}"
                self._end((link, message.attempt_id), reason, 0, 0, 0)
            case _:
                pass

    def _begin(self, key: Key, request: Request) -> None:
        if key in self._open:
            return  # a copy of what came before
        attributes: Attributes = {
            **self._model,
            "penstock.rows": request.inputs[0].rows if request.inputs else 1,
            "penstock.priority": request.priority,
            "penstock.suspect": request.suspect,
        }
        span = self._tracer.start("request", SpanRole.SERVER, request.traceparent, attributes)
        if span is None:
            return
        if len(self._open) >= SPANS_MAX:
            self._end(next(iter(self._open)), "unanswered", 0, 0, 0)
        self._open[key] = span

    def _end(self, key: Key, outcome: str, queue_us: int, infer_us: int, rows: int) -> None:
        span = self._open.pop(key, None)
        if span is None:
            return
        span.note(
            {
                "penstock.outcome": outcome,
                "penstock.queue_ms": queue_us / 1000,
                "penstock.infer_ms": infer_us / 1000,
                "penstock.batch.rows": rows,
            }
        )
        span.end("" if outcome == "ok" else outcome)

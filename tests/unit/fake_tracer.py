"""A tracer that keeps its spans, and takes none without a parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.shared.process.tracing import FLUSH_TIMEOUT_S, Attributes, Span, SpanRole, is_sampled

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class FakeSpan:
    """Implements `penstock.shared.process.tracing.Span`."""

    name: str
    parent: str
    context: str
    attributes: dict[str, Any]
    links: list[str]
    events: list[str] = field(default_factory=list)
    failure: str | None = None

    @property
    def ended(self) -> bool:
        return self.failure is not None

    def note(self, attributes: Attributes) -> None:
        self.attributes.update(attributes)

    def event(self, name: str) -> None:
        self.events.append(name)

    def link(self, other: Span) -> None:
        self.links.append(other.context)

    def end(self, failure: str = "") -> None:
        assert not self.ended
        self.failure = failure


class FakeTracer:
    """Implements `penstock.shared.process.tracing.Tracer`."""

    def __init__(self) -> None:
        self.spans: list[FakeSpan] = []

    def start(
        self,
        name: str,
        kind: SpanRole,
        parent: str,
        attributes: Attributes,
        links: Sequence[Span] = (),
    ) -> Span | None:
        if not is_sampled(parent):
            return None
        context = f"{parent[:36]}{len(self.spans) + 1:016x}-01"
        span = FakeSpan(name, parent, context, dict(attributes), [x.context for x in links])
        self.spans.append(span)
        return span

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        pass

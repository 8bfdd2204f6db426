"""Spans by OpenTelemetry's SDK, exported over OTLP/HTTP; everything is set by OTEL_* variables.

Imported by `penstock.shared.process.tracing` when tracing is asked for, and by nobody else: it
needs the extra `otel`. Spans leave from a thread of the SDK's, whose queue is bounded
(OTEL_BSP_MAX_QUEUE_SIZE): what a collector does not take is dropped, and never waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from penstock.shared.process.build_info import own_version
from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.tracing import (
    FLUSH_TIMEOUT_S,
    Attributes,
    Span,
    SpanRole,
    Tracer,
    is_sampled,
    join_context,
    split_context,
)

log = get_logger("tracing")


class OtelSpan:
    """A recording span of the SDK's; implements `penstock.shared.process.tracing.Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def context(self) -> str:
        it = self._span.get_span_context()
        traceparent = f"00-{it.trace_id:032x}-{it.span_id:016x}-{it.trace_flags:02x}"
        return join_context(traceparent, it.trace_state.to_header())

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def event(self, name: str) -> None:
        self._span.add_event(name)

    def link(self, other: Span) -> None:
        self._span.add_link(span_context(other.context))

    def end(self, failure: str = "") -> None:
        if failure:
            self._span.set_status(Status(StatusCode.ERROR, failure))
        self._span.end()


class OtelTracer:
    """Implements `penstock.shared.process.tracing.Tracer`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("penstock", own_version())
        # What a ParentBased sampler does for OTEL_TRACES_SAMPLER, without asking it: 7 us less.
        self._parent_decides = isinstance(provider.sampler, ParentBased)

    def start(
        self,
        name: str,
        kind: SpanRole,
        parent: str,
        attributes: Attributes,
        links: Sequence[Span] = (),
    ) -> Span | None:
        if self._parent_decides and parent and not is_sampled(parent):
            return None
        span = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=SpanKind[kind.value],
            attributes=attributes,
            links=[Link(span_context(link.context)) for link in links],
        )
        return OtelSpan(span) if span.is_recording() else None

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        # The SDK's own flush waits for as long as the exporter tries, whatever it is told.
        flushing = threading.Thread(target=self._provider.force_flush, daemon=True)
        flushing.start()
        flushing.join(timeout_s)
        if flushing.is_alive():
            log.warning("spans are lost: the collector did not take them", waited_s=timeout_s)


def make(service: str, instance: str) -> Tracer:
    """See `penstock.shared.process.tracing.make_tracer`."""
    provider = TracerProvider(resource=resource_of(service, instance), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return OtelTracer(provider)


def span_context(context: str) -> SpanContext:
    """A trace context, not empty, as OpenTelemetry has it."""
    traceparent, tracestate = split_context(context)
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=TraceState.from_header([tracestate]) if tracestate else TraceState(),
    )


def _context(parent: str) -> Context:
    if not parent:
        return Context()  # a new trace, whatever this thread did before
    return trace.set_span_in_context(NonRecordingSpan(span_context(parent)), Context())


def resource_of(service: str, instance: str) -> Resource:
    """What all spans of this process have in common; what OTEL_* variables say wins."""
    ours = {
        "service.name": service,
        "service.instance.id": instance,
        "service.version": own_version(),
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())

"""Traces, as the services need them: whether there are any, and what a span is to them.

Tracing is off unless the standard OTEL_* variables ask for it. Off, there is no tracer (None), and
a request meets a comparison with None and nothing else; `opentelemetry` is not even imported.

A *trace context* is one string: W3C's traceparent and, where there is one, a space and tracestate.
Empty: none. It comes from a client's headers, travels in `penstock.shared.wire.messages.Request`,
and names the span that whatever is done next is a child of.

Spans are made in the shells only, from what the pure cores report. Next stop:
`penstock.shared.process.otel`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol, TypeAlias, cast

from penstock.shared.process.telemetry import get_logger

log = get_logger("tracing")

FLUSH_TIMEOUT_S = 2.0
"""Longest that a process which ends waits for its last spans to leave."""

_TRACEPARENT_LENGTH = 55
_SAMPLED = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][13579bdf](?: |$)")

Attributes: TypeAlias = Mapping[str, str | int | float | bool]


class SpanRole(StrEnum):
    """A span's part in the conversation of two processes."""

    SERVER = "SERVER"
    CLIENT = "CLIENT"
    INTERNAL = "INTERNAL"


class Span(Protocol):
    """Something that takes time and is recorded. Calls after its end do nothing."""

    @property
    def context(self) -> str:
        """The trace context that makes others its children."""
        ...

    def note(self, attributes: Attributes) -> None:
        """Add attributes."""
        ...

    def event(self, name: str) -> None:
        """Something happened now."""
        ...

    def link(self, other: Span) -> None:
        """Point to a span that is not the parent."""
        ...

    def end(self, failure: str = "") -> None:
        """It ends now; as an error, if `failure` says which."""
        ...


class Tracer(Protocol):
    """Makes spans and sends them away, in a thread of its own."""

    def start(
        self,
        name: str,
        kind: SpanRole,
        parent: str,
        attributes: Attributes,
        links: Sequence[Span] = (),
    ) -> Span | None:
        """Begin a span now; None if it is not sampled.

        Args:
            parent: the trace context of its parent, or empty for the first span of a new trace.
        """
        ...

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Send what is left, waiting for at most `timeout_s`; for the end of a process."""
        ...


class TracerFactory(Protocol):
    """What `penstock.shared.process.otel` is to this module."""

    def make(self, service: str, instance: str) -> Tracer:
        """A tracer that is configured by the OTEL_* variables."""
        ...


def join_context(traceparent: str, tracestate: str) -> str:
    """A trace context from its two parts; `traceparent` is well-formed or empty."""
    return f"{traceparent} {tracestate}" if traceparent and tracestate else traceparent


def split_context(context: str) -> tuple[str, str]:
    """Traceparent and tracestate; both may be empty."""
    return context[:_TRACEPARENT_LENGTH], context[_TRACEPARENT_LENGTH + 1 :]


def is_sampled(context: str) -> bool:
    """Whether the context is well-formed, and the span that it names is recorded."""
    return bool(context) and _SAMPLED.match(context) is not None


def make_tracer(service: str, instance: str, environment: Mapping[str, str]) -> Tracer | None:
    """The tracer that the environment asks for; None (said in the log, if it asked) if none.

    Args:
        service: the service's name in traces, unless `OTEL_SERVICE_NAME` gives another.
        instance: this process among its like.
    """
    wanted, refusal = asked_for(environment)
    if refusal:
        log.error("no tracing", reason=refusal)
    if not wanted:
        return None
    try:
        # Only now: it takes 20 MB and a fifth of a second, and need not be installed.
        module = importlib.import_module("penstock.shared.process.otel")
    except ImportError as error:
        log.error(
            "no tracing",
            reason="it is asked for by OTEL_* variables, but not installed",
            missing=error.name,
            remedy="pip install 'penstock[otel]'",
        )
        return None
    tracer = cast(TracerFactory, module).make(service, instance)
    log.info("tracing", service=service, instance=instance)
    return tracer


def asked_for(environment: Mapping[str, str]) -> tuple[bool, str]:
    """Whether the OTEL_* variables ask for traces; if in a way that is not supported, which."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False, ""
    endpoint = _first(
        environment, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    exporters = _first(environment, "OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    if exporters == "none":
        return False, ""
    if exporters != "otlp":
        return False, f"OTEL_TRACES_EXPORTER is {exporters!r}; otlp and none are supported"
    protocol = _first(
        environment, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol not in ("", "http/protobuf"):
        return False, f"the OTLP protocol is {protocol!r}; http/protobuf is supported"
    return True, ""


def _first(environment: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := environment.get(name, "").strip())), "")

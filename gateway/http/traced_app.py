"""The application with a span for each request that may run a model, where traces are on.

The span's context takes the place of the client's `traceparent` and `tracestate` in what the routes
see, so that all that follows is the span's child. A request that is not sampled goes on unchanged:
the client's context then passes through to the replica.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.gateway.http.server.headers import trace_context_of
from penstock.shared.process.tracing import Span, SpanRole, Tracer, split_context

_CONTEXT_HEADERS = (b"traceparent", b"tracestate")
_MODEL_PATH = re.compile(r"(/v\d)/models/([^/:]+)(?:/versions/([^/]+))?([/:]\w+)?")


class TracedApp:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        span = None
        if scope["type"] == "http" and scope["method"] == "POST":
            span = begin_span(self._tracer, "POST", scope["path"], dict(scope["headers"]))
        if span is None:
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = with_context(scope["headers"], span.context)
        try:
            await self._app({**scope, "headers": headers}, receive, noting)
        finally:
            end_span(span, status)


def begin_span(
    tracer: Tracer, method: str, path: str, headers: Mapping[bytes, bytes]
) -> Span | None:
    """The span of a request that may run a model; None if it is not sampled."""
    attributes: dict[str, str | int | float | bool] = {
        "http.request.method": method,
        "url.path": path,
    }
    name = method
    match = _MODEL_PATH.fullmatch(path)
    if match is not None:
        prefix, model, version, action = match.groups()
        attributes["penstock.model"] = model
        pinned = ""
        if version is not None:
            attributes["penstock.version.asked"] = version
            pinned = "/versions/{version}"
        name = f"{method} {prefix}/models/{{model}}{pinned}{action or ''}"
    return tracer.start(name, SpanRole.SERVER, trace_context_of(headers), attributes)


def end_span(span: Span | None, status: int) -> None:
    """The request was answered; status 0: not at all, since its client went away."""
    if span is not None:
        span.note({"http.response.status_code": status})
        span.end(f"status {status}" if status >= 500 else "")


def with_context(headers: Iterable[tuple[bytes, bytes]], context: str) -> list[tuple[bytes, bytes]]:
    """Headers with another trace context."""
    kept = [header for header in headers if header[0] not in _CONTEXT_HEADERS]
    traceparent, tracestate = split_context(context)
    kept.append((b"traceparent", traceparent.encode("ascii")))
    if tracestate:
        kept.append((b"tracestate", tracestate.encode("ascii")))
    return kept

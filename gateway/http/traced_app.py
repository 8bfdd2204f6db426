"""The application with a span for each request that may run a model, where traces are on.

The span's context takes the place of the client's `traceparent` and `tracestate` in what the routes
see, so that all that follows is the span's child. A request that is not sampled goes on unchanged:
the client's context then passes through to the replica.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.request_headers import trace_context_of
from shared.tracing import Kind, Span, Tracer, split_context

_CONTEXT_HEADERS = (b"traceparent", b"tracestate")
_MODEL_PATH = re.compile(r"(/v\d)/models/([^/:]+)(?:/versions/([^/]+))?([/:]\w+)?")


class TracedApp:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        span = self._begin(scope) if scope["type"] == "http" else None
        if span is None:
            await self._app(scope, receive, send)
            return
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(_with_context(scope, span.context), receive, noting)
        finally:
            span.note({"http.response.status_code": status})
            # No answer at all: the client went away, which is nobody's error.
            span.end(f"status {status}" if status >= 500 else "")

    def _begin(self, scope: Scope) -> Span | None:
        if scope["method"] != "POST":
            return None
        path = scope["path"]
        attributes = {"http.request.method": "POST", "url.path": path}
        name = "POST"
        match = _MODEL_PATH.fullmatch(path)
        if match is not None:
            prefix, model, version, action = match.groups()
            attributes["penstock.model"] = model
            pinned = ""
            if version is not None:
                attributes["penstock.version.asked"] = version
                pinned = "/versions/{version}"
            name = f"POST {prefix}/models/{{model}}{pinned}{action or ''}"
        context = trace_context_of(dict(scope["headers"]))
        return self._tracer.start(name, Kind.SERVER, context, attributes)


def _with_context(scope: Scope, context: str) -> Scope:
    kept = [header for header in scope["headers"] if header[0] not in _CONTEXT_HEADERS]
    traceparent, tracestate = split_context(context)
    kept.append((b"traceparent", traceparent.encode("ascii")))
    if tracestate:
        kept.append((b"tracestate", tracestate.encode("ascii")))
    return {**scope, "headers": kept}

"""A tiny OTLP/HTTP collector for tests: takes spans in and keeps them, decoded."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True)
class Received:
    """One span, as far as tests look at it; ids in hex."""

    service: str
    instance: str
    name: str
    kind: int
    trace: str
    id: str
    parent: str
    state: str
    attributes: dict[str, Any]
    links: frozenset[str]
    events: tuple[str, ...]
    started_ns: int
    ended_ns: int
    failed: bool

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.id}-01"


class Collector:
    """Listens on a free port of this machine until it is closed."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._spans: list[Received] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT`."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        """An export came."""
        assert path == "/v1/traces", path
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            who = _attributes(resource.resource.attributes)
            for scope in resource.scope_spans:
                self._spans += [_received(span, who) for span in scope.spans]

    def spans(self, trace: str | None = None, name: str | None = None) -> list[Received]:
        """The spans so far, of one trace or all, by the time they began."""
        found = [
            span
            for span in list(self._spans)
            if trace in (None, span.trace) and name in (None, span.name)
        ]
        return sorted(found, key=lambda span: span.started_ns)

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


def _received(span: Any, who: dict[str, Any]) -> Received:
    return Received(
        service=who["service.name"],
        instance=who["service.instance.id"],
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        attributes=_attributes(span.attributes),
        links=frozenset(link.span_id.hex() for link in span.links),
        events=tuple(event.name for event in span.events),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        failed=span.status.code == 2,
    )

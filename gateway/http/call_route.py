"""From a request to a call and back, in whatever format: what every inference goes through.

Previous stop of a request: the client, through `gateway.http.app`. Next: the format's parser, which
is `gateway.http.oip_codec` for the Open Inference Protocol, then `gateway.service`, which runs the
call.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic

from fastapi import Response
from starlette.types import Receive, Scope, Send

from gateway.calls import InferenceAnswer, InferenceCall
from gateway.http.compression import Coding, chosen_coding, deflated
from gateway.http.errors import failure_response
from gateway.http.metrics import OK, HttpMetrics
from gateway.http.payload import EncodedResponse, P, PayloadFormat, RawHeaders
from gateway.http.request_body import (
    BodyTooLargeError,
    LingeringResponse,
    read_body,
    unless_client_goes,
)
from gateway.http.request_headers import (
    content_coding_of,
    request_id_of,
    timeout_s_header,
    trace_context_of,
)
from gateway.http.settings import HttpSettings
from gateway.service import Inference
from gateway.statistics import InferenceStatistics, Success
from shared.deployment import ModelInterface
from shared.errors import ErrorCode, PenstockError
from shared.tensors import Buffer

JOINED_BYTES_MAX = 256 * 1024
"""Answers up to this size are copied into one write; larger ones are written part by part."""


@dataclass(slots=True)
class _Exchange:
    """What is known of one inference request, for its metrics and logs.

    Attributes:
        model_label, version_label: empty until the service has said that they exist.
        resolved: the version asked for, or else the default one; empty until that is known.
        read_s, parsed_s: when its body had been read, and when it had been parsed.
        rows: of its first input.
    """

    model: str
    version: str | None
    request_id: str
    started_s: float
    model_label: str = ""
    version_label: str = ""
    resolved: str = ""
    request_bytes: int = 0
    read_s: float = 0.0
    parsed_s: float = 0.0
    rows: int = 0


class _InferenceReply(Response):
    """An answer whose body is sent in parts, without joining large tensors."""

    def __init__(self, parts: tuple[Buffer, ...], headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code = HTTPStatus.OK.value
        self.raw_headers = headers
        self.background = None
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send headers and parts."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for part in self._parts[:-1]:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": self._parts[-1], "more_body": False})


@dataclass(frozen=True, slots=True)
class CallContext:
    """What all routes to inference share.

    Attributes:
        service: what runs the calls.
        settings: bounds.
        metrics, statistics: where requests are counted.
    """

    service: Inference
    settings: HttpSettings
    metrics: HttpMetrics
    statistics: InferenceStatistics


class CallRoute(Generic[P]):
    """Takes inference requests in one format to the service, and answers them."""

    def __init__(self, context: CallContext, payload: PayloadFormat[P]) -> None:
        self._service = context.service
        self._settings = context.settings
        self._metrics = context.metrics
        self._statistics = context.statistics
        self._payload = payload

    async def answer(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> Response:
        """Answer one request; never raises an `Exception`."""
        started_s = time.perf_counter()
        headers: RawHeaders = dict(scope["headers"])
        exchange = _Exchange(model, version, request_id_of(headers), started_s)
        self._metrics.in_flight.inc()
        try:
            return await self._infer(exchange, headers, scope, receive)
        except Exception as error:
            return self._fail(exchange, error)
        finally:
            self._metrics.in_flight.dec()

    async def _infer(
        self, exchange: _Exchange, headers: RawHeaders, scope: Scope, receive: Receive
    ) -> Response:
        self._payload.check(headers)
        coding = content_coding_of(scope["headers"]) if b"content-encoding" in headers else None
        header_timeout_s = timeout_s_header(headers)
        settings = self._settings
        body = await read_body(
            headers, coding, receive, settings.max_body_bytes, settings.body_timeout_s
        )
        exchange.request_bytes = len(body)
        exchange.read_s = time.perf_counter()
        parsed = self._payload.parse(body, headers, self._interface(exchange))
        exchange.parsed_s = time.perf_counter()
        inputs = parsed.inputs
        exchange.rows = inputs[0].rows if inputs else 1
        call = InferenceCall(
            model=exchange.model,
            version=exchange.version,
            inputs=inputs,
            outputs=parsed.outputs,
            parameters=parsed.parameters,
            priority=parsed.priority,
            timeout_s=_shorter(parsed.timeout_s, header_timeout_s),
            traceparent=trace_context_of(headers),
        )
        answer = await unless_client_goes(self._service.infer(call), receive)
        return await self._reply(exchange, answer, parsed, headers)

    def _interface(self, exchange: _Exchange) -> ModelInterface:
        """What the model takes; notes what the service knows of its name and version."""
        try:
            metadata = self._service.metadata(exchange.model, exchange.version)
        except PenstockError as error:
            if error.code is not ErrorCode.MODEL_NOT_FOUND:
                exchange.model_label = exchange.model
                if error.code is not ErrorCode.VERSION_NOT_FOUND:
                    exchange.version_label = exchange.version or ""
            raise
        exchange.model_label = exchange.model
        exchange.version_label = exchange.version or ""
        exchange.resolved = exchange.version or metadata.versions[0]
        return metadata.interface

    async def _reply(
        self, exchange: _Exchange, answer: InferenceAnswer, parsed: P, headers: RawHeaders
    ) -> Response:
        answered_s = time.perf_counter()
        encoded = self._payload.build(answer, parsed)
        parts = encoded.parts
        size = sum([memoryview(part).nbytes for part in parts])
        reply_headers: list[tuple[bytes, bytes]] = []
        if size >= self._settings.compress_min_bytes:
            reply_headers.append((b"vary", b"accept-encoding"))
            coding = chosen_coding(headers.get(b"accept-encoding", b"").decode("latin-1"))
            if coding is not None:
                reply_headers.append((b"content-encoding", coding.encode("ascii")))
                parts = await _compressed(parts, coding)
                size = sum([len(part) for part in parts])
        if len(parts) > 1 and size <= JOINED_BYTES_MAX:
            parts = (b"".join(parts),)
        ended_s = time.perf_counter()
        self._count(exchange, answer, answered_s, ended_s, size)
        total_s = ended_s - exchange.started_s
        reply_headers += _reply_headers(exchange, answer, encoded, size, total_s)
        return _InferenceReply(parts, reply_headers)

    def _count(
        self,
        exchange: _Exchange,
        answer: InferenceAnswer,
        answered_s: float,
        ended_s: float,
        size: int,
    ) -> None:
        total_s = ended_s - exchange.started_s
        self._metrics.record(
            answer.model, answer.version, OK, total_s, exchange.request_bytes, size
        )
        success = Success(
            exchange.rows,
            answer.batch_rows,
            total_s,
            answer.queue_s,
            exchange.parsed_s - exchange.read_s,
            answer.infer_s,
            ended_s - answered_s,
            int(time.time() * 1000),
        )
        self._statistics.succeeded(answer.model, answer.version, success)

    def _fail(self, exchange: _Exchange, error: Exception) -> Response:
        code = error.code if isinstance(error, PenstockError) else ErrorCode.INTERNAL
        total_s = time.perf_counter() - exchange.started_s
        self._metrics.record(
            exchange.model_label,
            exchange.version_label,
            code.value,
            total_s,
            exchange.request_bytes,
            0,
        )
        if exchange.parsed_s:  # a request that could not be read was no call
            self._statistics.failed(exchange.model, exchange.resolved, total_s)
        response = failure_response(
            error,
            exchange.request_id,
            self._settings.retry_after_s,
            self._payload.error_body,
            model=exchange.model,
            version=exchange.version or "",
            duration_ms=round(total_s * 1e3, 3),
        )
        if isinstance(error, BodyTooLargeError) and error.unread:
            return LingeringResponse(response, self._settings.linger_s)
        return response


async def _compressed(parts: tuple[Buffer, ...], coding: Coding) -> tuple[Buffer, ...]:
    """A body in a coding; others have their turn while a large one is compressed."""
    pieces: list[Buffer] = []
    for piece in deflated(parts, coding):
        pieces.append(piece)
        await asyncio.sleep(0)
    return (b"".join(pieces),)


def _shorter(one_s: float | None, other_s: float | None) -> float | None:
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def _reply_headers(
    exchange: _Exchange,
    answer: InferenceAnswer,
    encoded: EncodedResponse,
    size: int,
    total_s: float,
) -> list[tuple[bytes, bytes]]:
    timing = (
        f"queue;dur={answer.queue_s * 1e3:.3f}, infer;dur={answer.infer_s * 1e3:.3f}, "
        f"total;dur={total_s * 1e3:.3f}"
    )
    json_length = encoded.header_length
    kind = b"application/json" if json_length is None else b"application/octet-stream"
    headers = [
        (b"content-type", kind),
        (b"content-length", b"%d" % size),
        (b"x-request-id", exchange.request_id.encode("ascii")),
        (b"server-timing", timing.encode("ascii")),
    ]
    if json_length is not None:
        headers.append((b"inference-header-content-length", b"%d" % json_length))
    return headers

"""From a request to a call and back, in whatever format: what every inference goes through.

The steps lie in `CallSteps`: they neither wait nor touch a connection, so that both shells around
them do the same. One is `CallRoute` here, an ASGI endpoint; the other is
`penstock.gateway.http.server.direct`, which serves the hot route without a task per request.

Previous stop of a request: the client, through `penstock.gateway.http.server.direct` or else
`penstock.gateway.http.app`. Next: the format's parser, which is `penstock.gateway.http.oip.codec`
for the Open Inference Protocol, then `penstock.gateway.inference.service`, which runs the call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Generic

from fastapi import Response
from starlette.types import Receive, Scope

from penstock.gateway.http.bodies.beside_loop import beside_loop
from penstock.gateway.http.bodies.element_bounds import LARGE_BYTES
from penstock.gateway.http.bodies.readers import LATE, body_readers
from penstock.gateway.http.errors import failure_response
from penstock.gateway.http.metrics import OK, HttpMetrics
from penstock.gateway.http.payload import P, PayloadFormat, RawHeaders
from penstock.gateway.http.reply import Reply, ReplyResponse
from penstock.gateway.http.server.body import read_body, unless_client_goes
from penstock.gateway.http.server.compression import Coding, chosen_coding, deflated
from penstock.gateway.http.server.connection import GIVEN_UP, was_given_up
from penstock.gateway.http.server.headers import (
    TIMEOUT_HEADER,
    content_coding_of,
    request_id_of,
    timeout_s_header,
    trace_context_of,
)
from penstock.gateway.http.server_timing import server_timing
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.http.tensors.checks import check_row_count
from penstock.gateway.inference.port import Inference
from penstock.gateway.inference.statistics import InferenceStatistics
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.gateway.memory.held_bytes import (
    ARRIVING,
    SMALL_BYTES_MAX,
    UNREAD,
    HeldBytes,
    HeldShare,
)
from penstock.gateway.routing.traffic import NAME_SHOWN_MAX
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import Buffer, nbytes_of

JOINED_BYTES_MAX: Final = 256 * 1024
"""Answers up to this size are copied into one write; larger ones are written part by part."""


ONLY_JOBS = "this version takes jobs only: POST the same body to its path /jobs instead of /infer"


class Exchange(Generic[P]):
    """What is known of one inference request, from its headers to its answer.

    What is not known yet is told by the class's attributes: one is made for every request, and most
    of it is set later, or never.

    Attributes:
        model_label, resolved: the model, and the version asked for or else the default one; empty
            until the service has said that they exist.
        parsed: what the body says, once it is read.
        read_s, parsed_s, answered_s: when its body had been read, when it had been parsed, and
            when its call was answered; 0 until then.
    """

    model_label: str = ""
    resolved: str = ""
    request_bytes: int = 0
    parsed: P | None = None
    read_s: float = 0.0
    parsed_s: float = 0.0
    answered_s: float = 0.0

    def __init__(self, model: str, version: str | None, headers: RawHeaders) -> None:
        self.model = model
        self.version = version
        self.headers = headers
        self.started_s = time.perf_counter()


@dataclass(slots=True)
class Body:
    """The body of an answer.

    Attributes:
        size: in bytes.
        varies: whether it might have been compressed.
        wanted: the coding that the client wants it in, if it is worth that.
        coding: the one that it is in.
        json_length: bytes of JSON in front of binary data, or None without any.
    """

    parts: tuple[Buffer, ...]
    size: int
    json_length: int | None
    varies: bool = False
    wanted: Coding | None = None
    coding: Coding | None = None


@dataclass(frozen=True, slots=True)
class CallContext:
    """What all routes to inference share.

    Attributes:
        service: what runs the calls.
        settings: bounds.
        metrics, statistics: where requests are counted.
        held: the budget over what the gateway holds.
    """

    service: Inference
    settings: HttpSettings
    metrics: HttpMetrics
    statistics: InferenceStatistics
    held: HeldBytes


class CallSteps(Generic[P]):
    """What is done with an inference request in one format, step by step.

    `call` first, which may fail; once the call is answered, `body` and `reply`; or `fail` instead
    of what is left, at any time. Between `begin` and `end`, a request is counted as in flight.
    """

    def __init__(self, context: CallContext, payload: PayloadFormat[P]) -> None:
        self.settings = context.settings
        self.service = context.service
        self.metrics = context.metrics
        self.held = context.held
        self._statistics = context.statistics
        self.payload = payload

    def begin(self) -> None:
        """The headers of a request have come."""
        self.metrics.in_flight += 1

    def end(self) -> None:
        """A request that began has been answered, or its client has gone."""
        self.metrics.in_flight -= 1

    def check(self, headers: RawHeaders) -> None:
        """Refuse a request by its headers.

        Raises:
            PenstockError: UNSUPPORTED_MEDIA_TYPE, INVALID_INPUT.
        """
        self.payload.check(headers)
        timeout_s_header(headers)

    def call(self, exchange: Exchange[P], body: Buffer) -> InferenceCall:
        """The body has come, and `check` found the headers good.

        Raises:
            PenstockError: INVALID_INPUT, NOT_OFFERED, or what the service says of the model.
        """
        interface = self.interface(exchange, body)
        parsed = self.payload.parse(body, exchange.headers, interface)
        return self.parsed_call(exchange, parsed, interface)

    def interface(self, exchange: Exchange[P], body: Buffer) -> ModelInterface:
        """What the model takes; the first part of `call`.

        Raises:
            PenstockError: NOT_OFFERED, or what the service says of the model.
        """
        exchange.request_bytes = len(body)
        exchange.read_s = time.perf_counter()
        model, version = exchange.model, exchange.version
        try:
            metadata = self.service.metadata(model, version)
        except PenstockError as error:
            _label_unreachable(exchange, error)
            raise
        exchange.model_label = model
        exchange.resolved = version or metadata.versions[0]
        if metadata.only_jobs:
            raise PenstockError(ErrorCode.NOT_OFFERED, ONLY_JOBS)
        return metadata.interface

    async def read_apart(
        self, exchange: Exchange[P], body: list[Buffer], interface: ModelInterface
    ) -> InferenceCall:
        """The last part of `call` for a body that takes long to read, within the call's time.

        Args:
            exchange: of the request.
            body: a list of nothing else; see `penstock.gateway.http.bodies.readers`.
            interface: the model's.

        Raises:
            PenstockError: what the readers say; DEADLINE_EXCEEDED.
        """
        headers = exchange.headers
        parsed = await body_readers.read(
            payload=self.payload,
            body=body,
            headers=headers,
            interface=interface,
            max_elements=self.settings.max_request_elements,
            timeout_s=timeout_s_header(headers),
        )
        call = self.parsed_call(exchange, parsed, interface)
        if call.timeout_s is None:
            return call
        left_s = call.timeout_s - (exchange.parsed_s - exchange.read_s)
        if left_s <= 0:
            raise PenstockError(ErrorCode.DEADLINE_EXCEEDED, LATE)
        return replace(call, timeout_s=left_s)

    def parsed_call(
        self, exchange: Exchange[P], parsed: P, interface: ModelInterface
    ) -> InferenceCall:
        """The last part of `call`.

        Raises:
            PenstockError: INVALID_INPUT.
        """
        check_row_count(parsed.inputs, interface, self.settings.max_request_rows)
        headers, model, version = exchange.headers, exchange.model, exchange.version
        exchange.parsed = parsed
        exchange.parsed_s = time.perf_counter()
        timeout_s = parsed.timeout_s
        if TIMEOUT_HEADER in headers:
            timeout_s = shorter(timeout_s, timeout_s_header(headers))
        return InferenceCall(
            model=model,
            version=version,
            inputs=parsed.inputs,
            outputs=parsed.outputs,
            parameters=parsed.parameters,
            priority=parsed.priority,
            timeout_s=timeout_s,
            traceparent=trace_context_of(headers) if b"traceparent" in headers else "",
        )

    def body(self, exchange: Exchange[P], answer: InferenceAnswer) -> Body:
        """The call was answered: the answer in the request's words.

        Raises:
            PenstockError: MODEL_ERROR, if the format cannot hold what the model gave.
            ValueError: if an output's data does not fit its datatype and shape.
        """
        exchange.answered_s = time.perf_counter()
        assert exchange.parsed is not None
        encoded = self.payload.build(answer, exchange.parsed)
        parts = encoded.parts
        size = len(parts[0])
        if len(parts) > 1:
            size = sum([nbytes_of(part) for part in parts])
            if size <= JOINED_BYTES_MAX:
                parts = (b"".join(parts),)
        body = Body(parts, size, encoded.header_length)
        if size >= self.settings.compress_min_bytes:
            body.varies = True
            accepted = exchange.headers.get(b"accept-encoding", b"")
            body.wanted = chosen_coding(accepted.decode("latin-1"))
        return body

    def reply(self, exchange: Exchange[P], answer: InferenceAnswer, body: Body) -> Reply:
        """The answer to a request whose call was answered."""
        ended_s = time.perf_counter()
        total_s = ended_s - exchange.started_s
        self.metrics.record(
            model=answer.model,
            version=answer.version,
            code=OK,
            latency_s=total_s,
            request_bytes=exchange.request_bytes,
            response_bytes=body.size,
        )
        assert exchange.parsed is not None
        inputs = exchange.parsed.inputs
        self._statistics.succeeded(
            model=answer.model,
            version=answer.version,
            rows=inputs[0].rows if inputs else 1,
            batch_rows=answer.batch_rows,
            total_s=total_s,
            queue_s=answer.queue_s,
            parse_s=exchange.parsed_s - exchange.read_s,
            infer_s=answer.infer_s,
            encode_s=ended_s - exchange.answered_s,
            at_ms=int(time.time() * 1000),
        )
        return Reply(reply_head(exchange, answer, body, total_s), body.parts)

    def fail(self, exchange: Exchange[P], error: Exception) -> Response:
        """The response to a request that came to nothing."""
        code, version = ErrorCode.INTERNAL, exchange.resolved
        if isinstance(error, PenstockError):
            code, version = error.code, error.version or version
        total_s = time.perf_counter() - exchange.started_s
        self.metrics.record(
            model=exchange.model_label,
            version=version,
            code=code.value,
            latency_s=total_s,
            request_bytes=exchange.request_bytes,
            response_bytes=0,
        )
        if exchange.parsed_s:  # a request that could not be read was no call
            self._statistics.failed(exchange.model, version, total_s)
        return failure_response(
            error,
            request_id_of(exchange.headers),
            self.settings.retry_after_s,
            self.payload.error_body,
            model=exchange.model[:NAME_SHOWN_MAX],
            version=(version or exchange.version or "")[:NAME_SHOWN_MAX],
            duration_ms=round(total_s * 1e3, 3),
        )


class CallRoute(Generic[P]):
    """Takes inference requests in one format to the service, and answers them."""

    def __init__(self, context: CallContext, payload: PayloadFormat[P]) -> None:
        self.steps = CallSteps(context, payload)

    async def answer(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> Response:
        """Answer one request; never raises an `Exception`."""
        exchange: Exchange[P] = Exchange(model, version, dict(scope["headers"]))
        self.steps.begin()
        try:
            return await self._infer(exchange, scope, receive)
        except Exception as error:
            return self.steps.fail(exchange, _cause(error, scope))
        finally:
            self.steps.end()

    async def _infer(self, exchange: Exchange[P], scope: Scope, receive: Receive) -> Response:
        steps, headers, settings = self.steps, exchange.headers, self.steps.settings
        steps.check(headers)
        coding = content_coding_of(scope["headers"]) if b"content-encoding" in headers else None
        share = HeldShare(steps.held, ARRIVING)
        try:
            content = await read_body(
                headers=headers,
                coding=coding,
                receive=receive,
                max_bytes=settings.max_body_bytes,
                timeout_s=settings.body_timeout_s,
                share=share,
            )
            interface = steps.interface(exchange, content)
            if steps.payload.takes_long(content, headers, interface):
                apart, content = [content], b""
                reading = steps.read_apart(exchange, apart, interface)
                call = await unless_client_goes(reading, receive)
            else:
                parsed, content = steps.payload.parse(content, headers, interface), b""
                call = steps.parsed_call(exchange, parsed, interface)
            hand_over(share, call)
            answer = await unless_client_goes(steps.service.infer(call), receive)
        finally:
            share.release()
        if is_large(answer):
            body = await beside_loop(partial(steps.body, exchange, answer))
        else:
            body = steps.body(exchange, answer)
        unread = HeldShare(steps.held, UNREAD)
        unread.resize(body.size)
        try:
            if body.wanted is not None:
                body = await compressed(body, body.wanted)
                unread.resize(body.size)
            return ReplyResponse(steps.reply(exchange, answer, body), unread)
        except BaseException:
            unread.release()
            raise


def hand_over(share: HeldShare, call: InferenceCall) -> None:
    """A body was read: its tensors count as the open call's from now on.

    What a large body is beyond them stays held until the call is over: binary tensors are views of
    it, and keep all of it alive.
    """
    if share.size_bytes <= SMALL_BYTES_MAX:
        share.release()
        return
    share.shrink(max(0, share.size_bytes - sum([tensor.nbytes for tensor in call.inputs])))
    share.is_open()


def _cause(error: Exception, scope: Scope) -> Exception:
    """Why a request really came to nothing.

    A function of its own: a variable of the one that caught the error would hold it by its
    traceback, and with it the request's body, until garbage is collected, which is seldom.
    """
    if was_given_up(scope):
        return PenstockError(ErrorCode.SHUTTING_DOWN, GIVEN_UP)
    return error


def _label_unreachable(exchange: Exchange[P], error: PenstockError) -> None:
    """Of names that the service knows, metrics may be kept, also while nothing answers there."""
    if error.code is not ErrorCode.MODEL_NOT_FOUND:
        exchange.model_label = exchange.model
        if error.code is not ErrorCode.VERSION_NOT_FOUND:
            exchange.resolved = error.version or exchange.version or ""


async def compressed(body: Body, coding: Coding) -> Body:
    """A body in a coding; a large one is compressed beside the loop."""
    if body.size > LARGE_BYTES:
        parts = await beside_loop(partial(_deflated, body.parts, coding))
    else:
        parts = (b"".join(_deflated(body.parts, coding)),)
    size = sum([len(part) for part in parts])
    return Body(parts, size, body.json_length, varies=True, coding=coding)


def _deflated(parts: tuple[Buffer, ...], coding: Coding) -> tuple[bytes, ...]:
    return tuple([bit for bit in deflated(parts, coding) if bit])


def is_large(answer: InferenceAnswer) -> bool:
    """Whether an answer is to be written beside the loop."""
    outputs = answer.outputs
    if len(outputs) == 1:
        return outputs[0].nbytes > LARGE_BYTES
    return sum([output.nbytes for output in outputs]) > LARGE_BYTES


def shorter(one_s: float | None, other_s: float | None) -> float | None:
    """Of two timeouts, None for none, the one that ends first."""
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def reply_head(exchange: Exchange[P], answer: InferenceAnswer, body: Body, total_s: float) -> bytes:
    """Headers of an answer, each with the end of its line."""
    json_length = body.json_length
    head = (
        f"content-type: application/{'json' if json_length is None else 'octet-stream'}\r\n"
        f"content-length: {body.size}\r\n"
        f"x-request-id: {request_id_of(exchange.headers)}\r\n"
        f"server-timing: {server_timing(answer, total_s)}\r\n"
        f"x-penstock-attempts: {answer.attempts}\r\n"
    )
    if answer.hedged:
        head += f"x-penstock-hedged: {answer.hedged}\r\n"
    if json_length is not None:
        head += f"inference-header-content-length: {json_length}\r\n"
    if body.varies:
        head += "vary: accept-encoding\r\n"
    if body.coding is not None:
        head += f"content-encoding: {body.coding}\r\n"
    return head.encode("ascii")

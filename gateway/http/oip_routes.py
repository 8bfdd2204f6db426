"""The Open Inference Protocol's REST routes.

Previous stop of a request: the client, through `gateway.http.app`. Next: `gateway.http.oip_codec`
for the payload, then `gateway.service`, which runs the call.

Health answers have an empty body: 200 for yes, 400 for no (404 for a model that does not exist).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Request, Response
from starlette.types import Receive, Scope, Send

from gateway.calls import InferenceAnswer, InferenceCall
from gateway.http.errors import failure_response
from gateway.http.lean_route import add_get
from gateway.http.metrics import OK, HttpMetrics
from gateway.http.oip_codec import EncodedResponse, ParsedInfer, build_response, parse_infer
from gateway.http.oip_schemas import (
    INFER_OPENAPI,
    ErrorBody,
    InferResponse,
    ModelMetadataBody,
    ServerMetadata,
)
from gateway.http.request_body import (
    BodyTooLargeError,
    LingeringResponse,
    read_body,
    unless_client_goes,
)
from gateway.http.request_headers import (
    RawHeaders,
    check_content_type,
    json_length_of,
    request_id_of,
    timeout_s_header,
    traceparent_of,
)
from gateway.http.settings import HttpSettings
from gateway.service import Inference
from shared.deployment import ModelInterface
from shared.errors import ErrorCode, PenstockError
from shared.tensors import Buffer, TensorSpec

EXTENSIONS = ("binary_tensor_data",)

JOINED_BYTES_MAX = 256 * 1024
"""Answers up to this size are copied into one write; larger ones are written part by part."""

Model = Annotated[str, Path(description="Name of a registered model.")]
Version = Annotated[str, Path(description="A version of the model.")]


@dataclass(slots=True)
class _Exchange:
    """What is known of one inference request, for its metrics and logs.

    Attributes:
        model_label, version_label: empty until the service has said that they exist.
    """

    model: str
    version: str | None
    request_id: str
    started_s: float
    model_label: str = ""
    version_label: str = ""
    request_bytes: int = 0


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


class InferRoute:
    """Takes inference requests to the service, and answers them.

    Args:
        service: what runs the calls.
        settings: bounds.
        metrics: where requests are counted.
    """

    def __init__(self, service: Inference, settings: HttpSettings, metrics: HttpMetrics) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics

    async def answer(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> Response:
        """Answer one request; never raises an `Exception`."""
        started_s = time.perf_counter()
        headers: RawHeaders = dict(scope["headers"])
        exchange = _Exchange(model, version, request_id_of(headers), started_s)
        self._metrics.in_flight.inc()
        try:
            return await self._infer(exchange, headers, receive)
        except Exception as error:
            return self._fail(exchange, error)
        finally:
            self._metrics.in_flight.dec()

    async def _infer(self, exchange: _Exchange, headers: RawHeaders, receive: Receive) -> Response:
        check_content_type(headers)
        json_length = json_length_of(headers)
        header_timeout_s = timeout_s_header(headers)
        body = await read_body(headers, receive, self._settings.max_body_bytes)
        exchange.request_bytes = len(body)
        parsed = parse_infer(body, json_length, self._interface(exchange))
        call = InferenceCall(
            model=exchange.model,
            version=exchange.version,
            inputs=parsed.inputs,
            outputs=parsed.outputs,
            parameters=parsed.parameters,
            priority=parsed.priority,
            timeout_s=_shorter(parsed.timeout_s, header_timeout_s),
            traceparent=traceparent_of(headers),
        )
        answer = await unless_client_goes(self._service.infer(call), receive)
        return self._reply(exchange, answer, parsed)

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
        return metadata.interface

    def _reply(self, exchange: _Exchange, answer: InferenceAnswer, parsed: ParsedInfer) -> Response:
        encoded = build_response(answer, parsed)
        parts = encoded.parts
        size = sum([memoryview(part).nbytes for part in parts])
        if len(parts) > 1 and size <= JOINED_BYTES_MAX:
            parts = (b"".join(parts),)
        total_s = time.perf_counter() - exchange.started_s
        self._metrics.record(
            answer.model, answer.version, OK, total_s, exchange.request_bytes, size
        )
        return _InferenceReply(parts, _reply_headers(exchange, answer, encoded, size, total_s))

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
        response = failure_response(
            error,
            exchange.request_id,
            self._settings.retry_after_s,
            model=exchange.model,
            version=exchange.version or "",
            duration_ms=round(total_s * 1e3, 3),
        )
        if isinstance(error, BodyTooLargeError) and error.unread:
            return LingeringResponse(response, self._settings.linger_s)
        return response


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


class OipEndpoints:
    """The protocol's questions about server and models.

    Args:
        service: what knows the answers.
        infer: takes inference requests.
        server_version: of this software.
    """

    def __init__(self, service: Inference, infer: InferRoute, server_version: str) -> None:
        self._service = service
        self._infer = infer
        self._server_version = server_version

    async def server(self, request: Request) -> Response:
        """Name, version and extensions of this server."""
        extensions = list(EXTENSIONS)
        return _json(
            {"name": "penstock", "version": self._server_version, "extensions": extensions}
        )

    async def live(self, request: Request) -> Response:
        """Whether the server runs."""
        return _health(True)

    async def ready(self, request: Request) -> Response:
        """Whether the server can take inference requests: 200, or else 400."""
        return _health(self._service.ready())

    async def model(self, request: Request, model: Model) -> Response:
        """What the model takes and gives."""
        return self._metadata(model, None)

    async def version(self, request: Request, model: Model, version: Version) -> Response:
        """What this version of the model takes and gives."""
        return self._metadata(model, version)

    async def model_ready(self, request: Request, model: Model) -> Response:
        """Whether the model can be called now: 200, or else 400; 404 if there is none."""
        return self._model_health(model, None)

    async def version_ready(self, request: Request, model: Model, version: Version) -> Response:
        """Whether this version can be called now: 200, or else 400; 404 if there is none."""
        return self._model_health(model, version)

    async def model_infer(self, request: Request, model: Model) -> Response:
        """Run the model on input tensors, on the version that the traffic policy chooses."""
        return await self._infer.answer(request.scope, request.receive, model, None)

    async def version_infer(self, request: Request, model: Model, version: Version) -> Response:
        """Run this version of the model on input tensors."""
        return await self._infer.answer(request.scope, request.receive, model, version)

    def _metadata(self, model: str, version: str | None) -> Response:
        metadata = self._service.metadata(model, version)
        interface = metadata.interface
        return _json(
            {
                "name": metadata.model,
                "versions": metadata.versions,
                "platform": interface.platform,
                "inputs": [_tensor(spec) for spec in interface.inputs],
                "outputs": [_tensor(spec) for spec in interface.outputs],
            }
        )

    def _model_health(self, model: str, version: str | None) -> Response:
        try:
            return _health(self._service.model_ready(model, version))
        except PenstockError as error:
            unknown = error.code in (ErrorCode.MODEL_NOT_FOUND, ErrorCode.VERSION_NOT_FOUND)
            return Response(status_code=404) if unknown else _health(False)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _health(good: bool) -> Response:
    return Response(status_code=HTTPStatus.OK if good else HTTPStatus.BAD_REQUEST)


_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is at fault, or the queue is full."},
    "5XX": {"model": ErrorBody, "description": "The model failed, or nothing can answer now."},
}
_HEALTH: dict[int | str, dict[str, Any]] = {
    200: {"description": "Yes.", "content": None},
    "4XX": {"description": "No."},
}


def add_oip_routes(router: APIRouter, endpoints: OipEndpoints) -> None:
    """Register the protocol's routes; every GET answers HEAD too."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    for path, infer in (
        (f"{model}/infer", endpoints.model_infer),
        (f"{version}/infer", endpoints.version_infer),
    ):
        router.add_api_route(
            path,
            infer,
            methods=["POST"],
            summary="Run an inference",
            tags=["inference"],
            response_model=None,
            responses={200: {"model": InferResponse}, **_ERRORS},
            openapi_extra=INFER_OPENAPI,
        )
    for path, endpoint, summary, schema in (
        ("/v2/health/live", endpoints.live, "Is the server alive?", None),
        ("/v2/health/ready", endpoints.ready, "Is the server ready?", None),
        ("/v2", endpoints.server, "Server metadata", ServerMetadata),
        (f"{model}/ready", endpoints.model_ready, "Is the model ready?", None),
        (f"{version}/ready", endpoints.version_ready, "Is the version ready?", None),
        (model, endpoints.model, "Model metadata", ModelMetadataBody),
        (version, endpoints.version, "Version metadata", ModelMetadataBody),
    ):
        tag = "health" if schema is None else "metadata"
        responses = _HEALTH if schema is None else {200: {"model": schema}, **_ERRORS}
        add_get(router, path, endpoint, summary, tag, responses)

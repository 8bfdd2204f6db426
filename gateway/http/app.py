"""The gateway's web application: the protocol's routes, metrics, and documentation.

Previous stop of a request: the client, through uvicorn. Next: `gateway.http.oip_routes`.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.types import Receive, Scope, Send

from gateway.http.call_route import CallContext, CallRoute
from gateway.http.errors import install_error_handlers
from gateway.http.extension_routes import ExtensionEndpoints, add_extension_routes
from gateway.http.lean_route import LeanRoute, add_get
from gateway.http.metrics import HttpMetrics
from gateway.http.oip_codec import ParsedInfer
from gateway.http.oip_routes import OipEndpoints, OipFormat, add_oip_routes
from gateway.http.oip_schemas import REQUEST_SCHEMAS
from gateway.http.scoring_routes import ScoringEndpoints, add_scoring_routes
from gateway.http.settings import HttpSettings
from gateway.service import Inference
from gateway.statistics import InferenceStatistics

_INFER_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

_NO_TELEMETRY: dict[str, Any] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""The framework's own telemetry: we have ours, and it costs time on every request."""

_DESCRIPTION = (
    "A queue-based model server that follows the MLflow registry. It speaks the Open Inference "
    "Protocol v2 with the binary tensor extension and Triton's extensions for statistics, "
    "configuration and the repository's index, MLflow's scoring protocol, and KServe v1. Failed "
    'requests answer `{"error": "..."}`, or `{"error_code": ..., "message": ...}` as MLflow does.'
)


class GatewayApp(FastAPI):
    """The application, with a short way for inference.

    The framework's middleware and routing take about 15 microseconds of CPU per request (FastAPI
    0.165, one core at 3 GHz), more than our own parsing of a small one, and do nothing for a
    route that reads its request itself. So inference requests go straight to their handler; the
    same handler is registered as a route, for documentation and for servers under a root path.
    """

    def __init__(self, infer: CallRoute[ParsedInfer], **options: Any) -> None:
        self._infer = infer
        super().__init__(**options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's lifespan."""
        if scope["type"] == "http" and scope["method"] == "POST" and not scope.get("root_path"):
            match = _INFER_PATH.fullmatch(scope["path"])
            if match is not None:
                response = await self._infer.answer(scope, receive, match[1], match[2])
                await response(scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, completed by the schemas that the framework cannot see."""
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {}).update(REQUEST_SCHEMAS)
        return document


class _MetricsEndpoint:
    """Shows a registry in the format that the scraper asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def show(self, request: Request) -> Response:
        """Metrics of this gateway, for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type})


def create_app(service: Inference, settings: HttpSettings, metrics: HttpMetrics) -> FastAPI:
    """The web application of a gateway.

    Args:
        service: what runs the calls.
        settings: bounds of the HTTP front.
        metrics: where requests are counted; its registry is shown at `/metrics`.
    """
    version = metadata.version("penstock")
    statistics = InferenceStatistics(settings.max_metric_series)
    context = CallContext(service, settings, metrics, statistics)
    infer = CallRoute(context, OipFormat())
    app = GatewayApp(
        infer,
        title="Penstock",
        version=version,
        description=_DESCRIPTION,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    install_error_handlers(app)
    app.router.route_class = LeanRoute
    add_extension_routes(app.router, ExtensionEndpoints(service, statistics, settings))
    add_oip_routes(app.router, OipEndpoints(service, infer, version))
    add_scoring_routes(app.router, ScoringEndpoints(context))
    show = _MetricsEndpoint(metrics.registry).show
    responses: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
    add_get(app.router, "/metrics", show, "Prometheus metrics", "operations", responses)
    return app

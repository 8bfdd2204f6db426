"""The gateway's web application: the protocol's routes, metrics, and documentation."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from penstock.gateway.http.call_route import CallContext, CallRoute, CallSteps
from penstock.gateway.http.documentation import add_documentation, with_examples
from penstock.gateway.http.errors import install_error_handlers
from penstock.gateway.http.jobs.intake import JobIntake
from penstock.gateway.http.jobs.routes import JobEndpoints, add_job_routes
from penstock.gateway.http.metrics import HttpMetrics
from penstock.gateway.http.oip.format import OipFormat
from penstock.gateway.http.oip.routes import OipEndpoints, add_oip_routes
from penstock.gateway.http.oip.triton_routes import ExtensionEndpoints, add_extension_routes
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.schemas import REQUEST_SCHEMAS
from penstock.gateway.http.scoring.formats import MlflowFormat, ParsedScoring
from penstock.gateway.http.scoring.routes import ScoringEndpoints, add_scoring_routes
from penstock.gateway.http.scoring.schemas import SCORING_SCHEMAS
from penstock.gateway.http.server.browser_guard import BrowserGuard
from penstock.gateway.http.server.lean_route import LeanRoute, add_route
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.inference.port import Inference
from penstock.gateway.inference.statistics import InferenceStatistics
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.memory.held_bytes import HeldBytes

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
    """The application.

    Attributes:
        infer: what is done with an inference request.
        scoring: what is done with one in the words of MLflow's scoring server.
    """

    def __init__(
        self, infer: CallSteps[ParsedInfer], scoring: CallSteps[ParsedScoring], **options: Any
    ) -> None:
        self.infer = infer
        self.scoring = scoring
        super().__init__(docs_url=None, redoc_url=None, **options)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, completed by the schemas that the framework cannot see, and by
        examples of the models that are there."""
        document = super().openapi()
        document.setdefault("components", {}).setdefault("schemas", {}).update(
            REQUEST_SCHEMAS | SCORING_SCHEMAS
        )
        return with_examples(document, self.infer.service)


class _MetricsEndpoint:
    """Shows a registry in the format that the scraper asks for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def show(self, request: Request) -> Response:
        """Metrics of this gateway, for Prometheus."""
        try:
            encode, content_type = choose_encoder(request.headers.get("accept", ""))
        except TypeError:  # a version that the library cannot compare
            encode, content_type = choose_encoder("")
        return Response(encode(self._registry), headers={"content-type": content_type})


def create_app(
    service: Inference,
    settings: HttpSettings,
    metrics: HttpMetrics,
    jobs: JobService | None = None,
    held: HeldBytes | None = None,
) -> GatewayApp:
    """The web application of a gateway.

    Args:
        service: what runs the calls.
        settings: bounds of the HTTP front.
        metrics: where requests are counted; its registry is shown at `/metrics`.
        jobs: what takes jobs; None: nothing does.
        held: what the gateway holds; None: a budget of its own.
    """
    version = metadata.version("penstock")
    statistics = InferenceStatistics(settings.max_metric_series)
    context = CallContext(service, settings, metrics, statistics, held or HeldBytes())
    payload = OipFormat(settings.max_request_elements)
    infer = CallRoute(context, payload)
    scoring = ScoringEndpoints(context)
    app = GatewayApp(
        infer.steps,
        scoring.steps,
        title="Penstock",
        version=version,
        description=_DESCRIPTION,
        redirect_slashes=False,
        telemetry=_NO_TELEMETRY,
    )
    app.add_middleware(
        BrowserGuard,
        policy=settings.origins,
        retry_after_s=settings.retry_after_s,
        worded={"/invocations": MlflowFormat().error_body},
    )
    install_error_handlers(app)
    app.router.route_class = LeanRoute
    add_extension_routes(app.router, ExtensionEndpoints(service, statistics, settings))
    intake = None if jobs is None else JobIntake(jobs, context, infer.steps, payload)
    if jobs is not None and intake is not None:
        add_job_routes(app.router, JobEndpoints(jobs, intake))
    add_oip_routes(app.router, OipEndpoints(service, infer, version, intake))
    add_scoring_routes(app.router, scoring)
    add_documentation(app.router, "Penstock")
    show = _MetricsEndpoint(metrics.registry).show
    responses: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
    add_route(
        app.router,
        "GET",
        "/metrics",
        show,
        "Prometheus metrics",
        tag="operations",
        responses=responses,
    )
    return app

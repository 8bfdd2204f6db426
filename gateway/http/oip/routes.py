"""The Open Inference Protocol's REST routes.

Health answers are 200 for yes, 400 for no (404 for a model that does not exist), and say so in
JSON.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Protocol

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.types import Receive, Scope

from penstock.gateway.http.call_route import CallRoute
from penstock.gateway.http.oip.schemas import (
    AliveBody,
    LiveBody,
    ModelMetadataBody,
    ModelReadyBody,
    ReadyBody,
    ServerMetadata,
)
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.reply import json_response
from penstock.gateway.http.schemas import ERRORS, INFER_OPENAPI, InferResponse, Model, Version
from penstock.gateway.http.server.headers import preferred_wait_s
from penstock.gateway.http.server.lean_route import add_route
from penstock.gateway.inference.port import Inference
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.tensor_spec import TensorSpec

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)


class PreferredJobs(Protocol):
    """What is needed of `penstock.gateway.http.jobs.intake.JobIntake`."""

    def takes(self, model: str, version: str | None) -> bool: ...

    async def infer(
        self, scope: Scope, receive: Receive, model: str, version: str | None, wait_s: float
    ) -> Response: ...


class OipEndpoints:
    """The protocol's questions about server and models.

    Args:
        service: what knows the answers.
        infer: takes inference requests.
        server_version: of this software.
        preferred: takes those with `Prefer: respond-async`; None: they are as any other.
    """

    def __init__(
        self,
        service: Inference,
        infer: CallRoute[ParsedInfer],
        server_version: str,
        preferred: PreferredJobs | None = None,
    ) -> None:
        self._service = service
        self._infer = infer
        self._server_version = server_version
        self._preferred = preferred

    async def server(self, request: Request) -> Response:
        """Name, version and extensions of this server."""
        extensions = list(EXTENSIONS)
        return json_response(
            {"name": "penstock", "version": self._server_version, "extensions": extensions}
        )

    async def live(self, request: Request) -> Response:
        """Whether the server runs."""
        return _health(True, {"live": True})

    async def alive(self, request: Request) -> Response:
        """Whether the server runs, in the words of KServe's first protocol."""
        return json_response({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Whether the server can take inference requests: 200, or else 400."""
        reason = self._service.why_not_ready()
        body = {"live": True, "ready": not reason}
        return _health(not reason, body | {"reason": reason} if reason else body)

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
        return await self._run(request, model, None)

    async def version_infer(self, request: Request, model: Model, version: Version) -> Response:
        """Run this version of the model on input tensors."""
        return await self._run(request, model, version)

    async def _run(self, request: Request, model: str, version: str | None) -> Response:
        wait_s = preferred_wait_s(request.scope["headers"])
        jobs = self._preferred
        if wait_s is not None and jobs is not None and jobs.takes(model, version):
            return await jobs.infer(request.scope, request.receive, model, version, wait_s)
        return await self._infer.answer(request.scope, request.receive, model, version)

    def _metadata(self, model: str, version: str | None) -> Response:
        metadata = self._service.metadata(model, version)
        interface = metadata.interface
        return json_response(
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
            ready = self._service.model_ready(model, version)
        except PenstockError as error:
            if error.code in (ErrorCode.MODEL_NOT_FOUND, ErrorCode.VERSION_NOT_FOUND):
                raise
            ready = False
        return _health(ready, {"name": model, "ready": ready})


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def _health(good: bool, body: dict[str, Any]) -> Response:
    response = json_response(body)
    response.status_code = HTTPStatus.OK if good else HTTPStatus.BAD_REQUEST
    return response


def _health_answers(schema: type[BaseModel], *, of_model: bool) -> dict[int | str, dict[str, Any]]:
    answers: dict[int | str, dict[str, Any]] = {
        200: {"model": schema, "description": "Yes."},
        400: {"model": schema, "description": "No."},
    }
    return {**answers, **ERRORS} if of_model else answers


def add_oip_routes(router: APIRouter, endpoints: OipEndpoints) -> None:
    """Register the protocol's routes; every GET answers HEAD too."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    for path, infer in (
        (f"{model}/infer", endpoints.model_infer),
        (f"{version}/infer", endpoints.version_infer),
    ):
        responses = {200: {"model": InferResponse}, **ERRORS}
        add_route(
            router,
            "POST",
            path,
            infer,
            "Run an inference",
            tag="inference",
            responses=responses,
            openapi=INFER_OPENAPI,
        )
    for path, asks, summary, body, of_model in (
        ("/v2/health/live", endpoints.live, "Is the server alive?", LiveBody, False),
        ("/v2/health/ready", endpoints.ready, "Is the server ready?", ReadyBody, False),
        (f"{model}/ready", endpoints.model_ready, "Is the model ready?", ModelReadyBody, True),
        (
            f"{version}/ready",
            endpoints.version_ready,
            "Is the version ready?",
            ModelReadyBody,
            True,
        ),
    ):
        answers = _health_answers(body, of_model=of_model)
        add_route(router, "GET", path, asks, summary, tag="health", responses=answers)
    alive: dict[int | str, dict[str, Any]] = {200: {"model": AliveBody}}
    add_route(
        router,
        "GET",
        "/",
        endpoints.alive,
        "Is the server alive? (KServe v1)",
        tag="health",
        responses=alive,
    )
    for path, endpoint, summary, schema in (
        ("/v2", endpoints.server, "Server metadata", ServerMetadata),
        (model, endpoints.model, "Model metadata", ModelMetadataBody),
        (version, endpoints.version, "Version metadata", ModelMetadataBody),
    ):
        responses = {200: {"model": schema}, **ERRORS}
        add_route(router, "GET", path, endpoint, summary, tag="metadata", responses=responses)

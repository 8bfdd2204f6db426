"""Routes for clients of MLflow's scoring server and of KServe v1."""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from penstock.gateway.http.call_route import CallContext, CallRoute, CallSteps
from penstock.gateway.http.errors import failure_response
from penstock.gateway.http.reply import json_response
from penstock.gateway.http.schemas import ERRORS, Model, Version, error_responses
from penstock.gateway.http.scoring.formats import KserveFormat, MlflowFormat, ParsedScoring
from penstock.gateway.http.scoring.schemas import (
    KSERVE_OPENAPI,
    MLFLOW_OPENAPI,
    KserveModel,
    KserveModels,
    Predictions,
)
from penstock.gateway.http.server.headers import request_id_of
from penstock.gateway.http.server.lean_route import add_route
from penstock.gateway.http.tensors.bad_input import shown_names
from penstock.shared.contracts.errors import ErrorCode, PenstockError

MLFLOW_ERRORS = error_responses("MlflowErrorBody")
TEXTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Yes, or the version."},
    503: {"description": "Not yet."},
}


class ScoringEndpoints:
    """Inference in the words of other servers."""

    def __init__(self, context: CallContext) -> None:
        self._service = context.service
        self._settings = context.settings
        most = context.settings.max_request_elements
        self._mlflow_format = MlflowFormat(most)
        self._mlflow: CallRoute[ParsedScoring] = CallRoute(context, self._mlflow_format)
        self._kserve: CallRoute[ParsedScoring] = CallRoute(context, KserveFormat(most))

    @property
    def steps(self) -> CallSteps[ParsedScoring]:
        """What is done with a request to MLflow's routes."""
        return self._mlflow.steps

    async def invocations(self, request: Request) -> Response:
        """Score data as MLflow's server does, on the one model that is deployed."""
        names = [found.model for found in self._service.deployed_models()]
        if len(names) == 1:
            return await self._mlflow.answer(request.scope, request.receive, names[0], None)
        request_id = request_id_of(dict(request.scope["headers"]))
        error = _not_one(names)
        delay_s = self._settings.retry_after_s
        return failure_response(error, request_id, delay_s, self._mlflow_format.error_body)

    async def model_invocations(self, request: Request, model: Model) -> Response:
        """Score data as MLflow's server does, on the version that the traffic policy chooses."""
        return await self._mlflow.answer(request.scope, request.receive, model, None)

    async def version_invocations(
        self, request: Request, model: Model, version: Version
    ) -> Response:
        """Score data as MLflow's server does, on this version."""
        return await self._mlflow.answer(request.scope, request.receive, model, version)

    async def ping(self, request: Request) -> Response:
        """Whether calls are answered: 200, or else 503; a line end, as MLflow's server has it."""
        ready = not self._service.why_not_ready()
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Response("\n", status, media_type="application/json")

    async def version(self, request: Request) -> Response:
        """The newest version of MLflow that replicas have told of; 503 while none has."""
        found = self._mlflow_versions()
        if not found:
            unknown = "no replica has told its version of MLflow"
            return Response(unknown, HTTPStatus.SERVICE_UNAVAILABLE, media_type="text/plain")
        return Response(max(found, key=_in_order), media_type="text/plain")

    def _mlflow_versions(self) -> set[str]:
        found = set()
        for deployed in self._service.deployed_models():
            with suppress(PenstockError):  # none of its replicas was here yet
                found.add(self._service.metadata(deployed.model, None).interface.mlflow_version)
        return found - {""}

    async def predict(self, request: Request, model: Model) -> Response:
        """Predict as KServe's first protocol has it."""
        return await self._kserve.answer(request.scope, request.receive, model, None)

    async def models(self, request: Request) -> Response:
        """Names of the deployed models."""
        return json_response({"models": [each.model for each in self._service.deployed_models()]})

    async def model(self, request: Request, model: Model) -> Response:
        """Whether the model can be called now: 200, or else 503; 404 if there is none."""
        ready = self._service.model_ready(model, None)
        response = json_response({"name": model, "ready": ready})
        response.status_code = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return response


def _in_order(version: str) -> tuple[int, ...]:
    """By its numbers: 3.10 comes after 3.9."""
    return tuple([int(number) for number in re.findall(r"\d+", version)])


def _not_one(names: list[str]) -> PenstockError:
    if not names:
        return PenstockError(ErrorCode.MODEL_NOT_FOUND, "no model is deployed")
    return PenstockError(
        ErrorCode.INVALID_INPUT,
        f"{len(names)} models are deployed: name one as in /v2/models/NAME/invocations "
        f"({shown_names(names)})",
    )


def add_scoring_routes(router: APIRouter, endpoints: ScoringEndpoints) -> None:
    """Register MLflow's and KServe's routes."""
    answers: dict[int | str, dict[str, Any]] = {200: {"model": Predictions}}
    for path, endpoint in (
        ("/invocations", endpoints.invocations),
        ("/v2/models/{model}/invocations", endpoints.model_invocations),
        ("/v2/models/{model}/versions/{version}/invocations", endpoints.version_invocations),
    ):
        responses = {**answers, **MLFLOW_ERRORS}
        add_route(
            router,
            "POST",
            path,
            endpoint,
            "Score as MLflow does",
            tag="mlflow",
            responses=responses,
            openapi=MLFLOW_OPENAPI,
        )
    for path, endpoint, question in (
        ("/ping", endpoints.ping, "Are calls answered?"),
        ("/health", endpoints.ping, "Are calls answered?"),
        ("/version", endpoints.version, "MLflow's version"),
    ):
        add_route(router, "GET", path, endpoint, question, tag="mlflow", responses=TEXTS)
    add_route(
        router,
        "POST",
        "/v1/models/{model}:predict",
        endpoints.predict,
        "Predict",
        tag="kserve v1",
        responses={**answers, **ERRORS},
        openapi=KSERVE_OPENAPI,
    )
    listed: dict[int | str, dict[str, Any]] = {200: {"model": KserveModels}}
    one: dict[int | str, dict[str, Any]] = {
        200: {"model": KserveModel},
        **ERRORS,
        503: {"model": KserveModel, "description": "It is deployed, and cannot be called now."},
    }
    add_route(
        router,
        "GET",
        "/v1/models",
        endpoints.models,
        "Deployed models",
        tag="kserve v1",
        responses=listed,
    )
    add_route(
        router,
        "GET",
        "/v1/models/{model}",
        endpoints.model,
        "Is it ready?",
        tag="kserve v1",
        responses=one,
    )

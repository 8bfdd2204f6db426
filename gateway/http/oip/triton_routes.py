"""Triton's extensions to the protocol: model configuration, statistics, and the repository's index.

What is loaded is decided by tags in the registry, so `load` and `unload` answer 501 and say so.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request, Response

from penstock.gateway.http.errors import error_response
from penstock.gateway.http.oip.model_config import model_config
from penstock.gateway.http.oip.triton_schemas import (
    INDEX_OPENAPI,
    IndexEntry,
    ModelConfigBody,
    StatisticsBody,
)
from penstock.gateway.http.parameters import as_boolean
from penstock.gateway.http.reply import json_response
from penstock.gateway.http.schemas import ERRORS, NO_BODY_OPENAPI, Model, Version
from penstock.gateway.http.server.body import read_body
from penstock.gateway.http.server.headers import request_id_of
from penstock.gateway.http.server.lean_route import add_route
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.http.tensors.bad_input import quoted
from penstock.gateway.http.tensors.document import load_document
from penstock.gateway.inference.port import Inference
from penstock.gateway.inference.statistics import InferenceStatistics, VersionCounters
from penstock.gateway.inference.types import DeployedModel
from penstock.shared.contracts.errors import ErrorCode, PenstockError

INDEX_BYTES_MAX = 4096
"""Largest body of a request for the index, which has one member."""

TAGS_DECIDE = (
    "models are loaded and unloaded by tags and aliases in the registry, not by clients: "
    'set the tag "penstock.role" of a version to "stable" or "off"'
)


class ExtensionEndpoints:
    """Questions about models beyond the protocol's core.

    Args:
        service: what knows the models.
        statistics: what became of this gateway's calls.
        settings: bounds.
    """

    def __init__(
        self, service: Inference, statistics: InferenceStatistics, settings: HttpSettings
    ) -> None:
        self._service = service
        self._statistics = statistics
        self._settings = settings

    async def config(self, request: Request, model: Model) -> Response:
        """The model's interface in the words of Triton's model configuration."""
        return json_response(model_config(self._service.metadata(model, None)))

    async def version_config(self, request: Request, model: Model, version: Version) -> Response:
        """This version's interface in the words of Triton's model configuration."""
        return json_response(model_config(self._service.metadata(model, version)))

    async def all_statistics(self, request: Request) -> Response:
        """What became of this gateway's calls, by model and version."""
        return self._statistics_of(self._service.deployed_models())

    async def statistics(self, request: Request, model: Model) -> Response:
        """What became of this gateway's calls of a model, by version."""
        return self._statistics_of([self._deployed(model)])

    async def version_statistics(
        self, request: Request, model: Model, version: Version
    ) -> Response:
        """What became of this gateway's calls of one version."""
        found = self._deployed(model)
        kept = tuple(pair for pair in found.versions if pair[0] == version)
        if not kept:
            message = f"version {quoted(version)} of model {quoted(model)} is not deployed"
            raise PenstockError(ErrorCode.VERSION_NOT_FOUND, message)
        return self._statistics_of([DeployedModel(model, kept, "")])

    async def index(self, request: Request) -> Response:
        """Every deployed version: READY, or UNAVAILABLE and why."""
        body = await read_body(
            dict(request.scope["headers"]),
            None,
            request.receive,
            INDEX_BYTES_MAX,
            self._settings.body_timeout_s,
        )
        document = load_document(body) if body else {}
        only_ready = as_boolean("ready", document.get("ready"))
        entries = [entry for model in self._service.deployed_models() for entry in _states(model)]
        if only_ready:
            entries = [entry for entry in entries if entry["state"] == "READY"]
        return json_response(entries)

    async def load(self, request: Request, model: Model) -> Response:
        """Not offered: tags in the registry decide what is loaded."""
        return _tags_decide(request)

    async def unload(self, request: Request, model: Model) -> Response:
        """Not offered: tags in the registry decide what is loaded."""
        return _tags_decide(request)

    def _deployed(self, model: str) -> DeployedModel:
        for found in self._service.deployed_models():
            if found.model == model:
                return found
        message = f"model {quoted(model)} is not deployed"
        raise PenstockError(ErrorCode.MODEL_NOT_FOUND, message)

    def _statistics_of(self, models: Any) -> Response:
        stats = [
            _statistics_entry(found.model, version, self._statistics.counters(found.model, version))
            for found in models
            for version, _ in found.versions
        ]
        return json_response({"model_stats": stats})


def _tags_decide(request: Request) -> Response:
    request_id = request_id_of(dict(request.scope["headers"]))
    return error_response(HTTPStatus.NOT_IMPLEMENTED, TAGS_DECIDE, request_id)


def _states(model: DeployedModel) -> list[dict[str, str]]:
    if not model.versions:
        reason = model.reason or "no version of it is deployed"
        return [{"name": model.model, "state": "UNAVAILABLE", "reason": reason}]
    return [
        {
            "name": model.model,
            "version": version,
            "state": "READY" if ready else "UNAVAILABLE",
            "reason": "" if ready else "no replica is ready",
        }
        for version, ready in model.versions
    ]


def _statistics_entry(model: str, version: str, counters: VersionCounters) -> dict[str, Any]:
    answered = counters.succeeded
    return {
        "name": model,
        "version": version,
        "last_inference": counters.last_at_ms,
        "inference_count": counters.rows,
        "execution_count": round(counters.executions),
        "inference_stats": {
            "success": _duration(answered, counters.success_s),
            "fail": _duration(counters.failed, counters.fail_s),
            "queue": _duration(answered, counters.queue_s),
            "compute_input": _duration(answered, counters.parse_s),
            "compute_infer": _duration(answered, counters.infer_s),
            "compute_output": _duration(answered, counters.encode_s),
            "cache_hit": _duration(0, 0.0),
            "cache_miss": _duration(0, 0.0),
        },
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _duration(round(batch.executions), batch.parse_s),
                "compute_infer": _duration(round(batch.executions), batch.infer_s),
                "compute_output": _duration(round(batch.executions), batch.encode_s),
            }
            for size, batch in sorted(counters.batches.items())
        ],
    }


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}


def add_extension_routes(router: APIRouter, endpoints: ExtensionEndpoints) -> None:
    """Register the extensions; before the core, whose `{model}` would take `stats` for a name."""
    model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
    for path, endpoint in (
        ("/v2/models/stats", endpoints.all_statistics),
        (f"{model}/stats", endpoints.statistics),
        (f"{version}/stats", endpoints.version_statistics),
    ):
        answers = {200: {"model": StatisticsBody}, **ERRORS}
        add_route(router, "GET", path, endpoint, "Statistics", tag="statistics", responses=answers)
    for path, endpoint in (
        (f"{model}/config", endpoints.config),
        (f"{version}/config", endpoints.version_config),
    ):
        answers = {200: {"model": ModelConfigBody}, **ERRORS}
        add_route(
            router, "GET", path, endpoint, "Model configuration", tag="metadata", responses=answers
        )
    index: dict[int | str, dict[str, Any]] = {200: {"model": list[IndexEntry]}, **ERRORS}
    add_route(
        router,
        "POST",
        "/v2/repository/index",
        endpoints.index,
        "What is deployed",
        tag="repository",
        responses=index,
        openapi=INDEX_OPENAPI,
    )
    refused: dict[int | str, dict[str, Any]] = {
        501: {**ERRORS["5XX"], "description": "Tags in the registry decide."},
        "4XX": ERRORS["4XX"],
    }
    for action, endpoint in (("load", endpoints.load), ("unload", endpoints.unload)):
        add_route(
            router,
            "POST",
            f"/v2/repository/models/{{model}}/{action}",
            endpoint,
            f"Not offered: {action} a model",
            tag="repository",
            responses=refused,
            openapi=NO_BODY_OPENAPI,
        )

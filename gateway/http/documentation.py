"""The interactive documentation at `/docs`, which works without a network.

Swagger's files come from a package. Each model's example request is the one that its author logged
with it (MLflow's `input_example`), so that "Try it out" tries something that the model takes.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException

from penstock.gateway.http.server.lean_route import LeanRoute
from penstock.gateway.inference.port import Inference
from penstock.shared.contracts.errors import PenstockError

PACKAGE, FOLDER = "fastapi_swagger", "resources"

_TYPE_OF = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}
"""The files of the page, and what they are."""

EXAMPLES_MAX = 50
"""Models whose examples are shown: a page of more is no help."""

_PATHS = ("/v2/models/{model}/invocations", "/invocations")


def add_documentation(router: APIRouter, title: str) -> None:
    """Register the page, at `/docs`, and its files."""

    async def page(request: Request) -> Response:
        """The page."""
        script, style, icon = (f"/docs/{name}" for name in _TYPE_OF)
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=title,
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        )

    async def file(request: Request, name: str) -> Response:
        """One of its files."""
        if name not in _TYPE_OF:
            raise HTTPException(404, "Not Found")
        content = (files(PACKAGE) / FOLDER / name).read_bytes()
        headers = {"cache-control": "public, max-age=86400"}
        return Response(content, headers=headers, media_type=_TYPE_OF[name])

    for path, endpoint in (("/docs", page), ("/docs/{name}", file)):
        router.add_api_route(
            path,
            endpoint,
            methods=["GET", "HEAD"],
            include_in_schema=False,
            route_class_override=LeanRoute,
        )


def with_examples(document: dict[str, Any], service: Inference) -> dict[str, Any]:
    """The OpenAPI document with an example for each model that is deployed and has one."""
    found: dict[str, Any] = {}
    for deployed in service.deployed_models():
        if len(found) == EXAMPLES_MAX:
            break
        try:
            example = service.metadata(deployed.model, None).interface.example
        except PenstockError:  # none of its replicas was here yet
            continue
        if example:
            value = orjson.loads(example)
            found[deployed.model] = {
                "summary": f"input_example of {deployed.model}",
                "value": value,
            }
    for path in _PATHS:
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        if found:
            content["examples"] = found
        else:
            content.pop("examples", None)
    return document

"""Routes that hand the raw request to their endpoint, and answer errors in our shape."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from penstock.gateway.http.errors import failure_response
from penstock.gateway.http.server.headers import request_id_of

Endpoint: TypeAlias = Callable[..., Coroutine[Any, Any, Response]]


class LeanRoute(APIRoute):
    """A route that hands the raw request and the path's parameters to its endpoint.

    The framework still documents it from its signature, but resolves no dependencies and
    validates nothing, which would take longer than all of our own work on a small request.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself, with errors answered in our shape."""
        return _lean(self.endpoint)


def _lean(endpoint: Endpoint) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def handle(request: Request) -> Response:
        request_id = request_id_of(dict(request.scope["headers"]))
        try:
            response = await endpoint(request, **request.path_params)
        except HTTPException:
            raise
        except Exception as error:
            return failure_response(error, request_id, 1.0, path=request.url.path)
        if "x-request-id" not in response.headers:
            response.headers["x-request-id"] = request_id
        return response

    return handle


def add_route(
    router: APIRouter,
    method: str,
    path: str,
    endpoint: Endpoint,
    summary: str,
    tag: str,
    responses: dict[int | str, dict[str, Any]],
    openapi: dict[str, Any] | None = None,
) -> None:
    """Register a route for GET, POST or DELETE; where there is GET there is HEAD, undocumented.

    Args:
        router: of the application.
        method: in capitals; a DELETE has no content to answer.
        path: with names of parameters in braces.
        endpoint: answers.
        summary, tag, responses: for the documentation.
        openapi: describes the body and the queries, which the framework does not see.
    """
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        status_code=HTTPStatus.NO_CONTENT if method == "DELETE" else None,
        summary=summary,
        tags=[tag],
        response_model=None,
        response_class=Response,
        responses=responses,
        openapi_extra=openapi,
    )
    if method == "GET":
        router.add_route(path, _lean(endpoint), methods=["HEAD"], include_in_schema=False)

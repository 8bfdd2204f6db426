"""The application behind a guard: what pages in browsers may not ask is refused, the rest answered.

What is refused is decided by `penstock.gateway.http.server.origin_checks`. For the origins that the
operator listed the guard speaks CORS: it answers the browser's question beforehand (a preflight),
and marks answers as readable. The short way of inference leaves all requests of pages to this one.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from penstock.gateway.clients.origin_policy import OriginPolicy
from penstock.gateway.http.errors import ErrorFormat, failure_response, plain_error_body
from penstock.gateway.http.server.headers import request_id_of
from penstock.gateway.http.server.origin_checks import refusal
from penstock.shared.contracts.errors import ErrorCode, PenstockError

METHODS = b"GET, HEAD, POST, DELETE"
"""All that there is on some route."""

READABLE = (
    b"inference-header-content-length, location, preference-applied, retry-after, server-timing, "
    b"x-penstock-attempts, x-penstock-hedged, x-request-id"
)
"""Headers of answers that a page may read, beside those that it always may."""

PREFLIGHT_S = b"600"
"""How long a browser may remember the answer to a preflight; operators change their list."""

_ASKED_METHOD = b"access-control-request-method"
_ASKED_HEADERS = b"access-control-request-headers"


class BrowserGuard:
    """An ASGI application around another one.

    Args:
        app: what answers requests that are not refused.
        policy: the operator's.
        retry_after_s: for `Retry-After`, if an error does not say.
        worded: how refusals are put at paths with these ends; plainly at others.
    """

    def __init__(
        self,
        app: ASGIApp,
        policy: OriginPolicy,
        retry_after_s: float,
        worded: Mapping[str, ErrorFormat],
    ) -> None:
        self._app = app
        self._policy = policy
        self._retry_after_s = retry_after_s
        self._worded = worded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        error = refusal(self._policy, scope["method"], headers)
        origin = headers.get(b"origin")
        listed = origin is not None and self._policy.lists(origin)
        is_preflight = scope["method"] == "OPTIONS" and _ASKED_METHOD in headers
        if error is None and origin is not None and is_preflight and not listed:
            message = "Origin: expected one of --cors-origins"
            error = PenstockError(ErrorCode.FOREIGN_ORIGIN, message)
        if error is not None:
            await self._refused(error, scope, headers)(scope, receive, send)
        elif origin is None or not listed:
            await self._app(scope, receive, send)
        elif is_preflight:
            response = Response(status_code=204)
            response.raw_headers += [*self._marks(origin), *_permissions(headers)]
            await response(scope, receive, send)
        else:
            await self._app(scope, receive, self._marking(origin, send))

    def _refused(self, error: PenstockError, scope: Scope, headers: dict[bytes, bytes]) -> Response:
        path = scope["path"]
        found = (body_of for end, body_of in self._worded.items() if path.endswith(end))
        body_of = next(found, plain_error_body)
        request_id = request_id_of(headers)
        return failure_response(error, request_id, self._retry_after_s, body_of, path=path)

    def _marking(self, origin: bytes, send: Send) -> Send:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                exposed = (b"access-control-expose-headers", READABLE)
                marks = [*message.get("headers", ()), *self._marks(origin), exposed]
                message = {**message, "headers": marks}
            await send(message)

        return marked

    def _marks(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        if self._policy.any_origin:
            return [(b"access-control-allow-origin", b"*")]
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


def _permissions(headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """What a page may send after a preflight: the headers that it asked for, whatever they are."""
    permissions = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", PREFLIGHT_S),
    ]
    if _ASKED_HEADERS in headers:
        permissions.append((b"access-control-allow-headers", headers[_ASKED_HEADERS]))
    return permissions

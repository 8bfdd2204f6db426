"""Domain errors to HTTP answers: the one table of status codes, and the one shape of error bodies.

Whatever goes wrong, a client gets `{"error": "..."}` and an `x-request-id`; what it gets never
holds a traceback. An error that nobody foresaw is logged with its traceback and answered as
`internal error`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import TypeAlias

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from penstock.gateway.http.server.headers import request_id_of
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.process.log_limit import WINDOW_S, LogLimit
from penstock.shared.process.telemetry import get_logger

CLIENT_CLOSED_REQUEST = 499
"""Nobody reads this status, since the client has gone; it appears in logs."""

STATUS_OF: dict[ErrorCode, int] = {
    ErrorCode.INVALID_INPUT: HTTPStatus.BAD_REQUEST,
    ErrorCode.MODEL_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.VERSION_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.PAYLOAD_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ErrorCode.BODY_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.FOREIGN_ORIGIN: HTTPStatus.FORBIDDEN,
    ErrorCode.UNKNOWN_HOST: HTTPStatus.MISDIRECTED_REQUEST,
    ErrorCode.QUEUE_FULL: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.QUEUE_TIMEOUT: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.CANCELLED: CLIENT_CLOSED_REQUEST,
    ErrorCode.MODEL_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.OUT_OF_MEMORY: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.REPLICA_CRASHED: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.NO_READY_REPLICA: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.NOT_SERVABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.SHUTTING_DOWN: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.STORE_FULL: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.IDEMPOTENCY_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.NOT_OFFERED: HTTPStatus.CONFLICT,
    ErrorCode.JOB_NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.JOB_STATE: HTTPStatus.CONFLICT,
    ErrorCode.JOB_GONE: HTTPStatus.GONE,
    ErrorCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}

OVERLOAD = frozenset({ErrorCode.QUEUE_FULL, ErrorCode.QUEUE_TIMEOUT})
"""Failures that are frequent exactly when there is no time to log each; metrics count them."""

INTERNAL_ERROR = "internal error"

_log = get_logger("gateway.http")

_limit = LogLimit()
_told_later: list[asyncio.TimerHandle] = []


ErrorFormat: TypeAlias = Callable[[PenstockError], bytes]
"""How an error is put into a body, which differs between the payload formats."""


def plain_error_body(error: PenstockError) -> bytes:
    """`{"error": "..."}`, as the Open Inference Protocol has it."""
    return orjson.dumps({"error": error.message})


def error_response(
    status: int, message: str, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer with an error body."""
    return _error_response(status, orjson.dumps({"error": message}), request_id, headers or {})


def _error_response(
    status: int, body: bytes, request_id: str, headers: Mapping[str, str]
) -> Response:
    all_headers = {**headers, "x-request-id": request_id}
    return Response(body, status, headers=all_headers, media_type="application/json")


def domain_error_response(
    error: PenstockError,
    request_id: str,
    default_retry_after_s: float,
    body_of: ErrorFormat = plain_error_body,
) -> Response:
    """The answer to a request that failed with a domain error."""
    headers: dict[str, str] = {}
    if error.retryable:
        delay_s = error.retry_after_s if error.retry_after_s is not None else default_retry_after_s
        headers["retry-after"] = str(max(1, math.ceil(delay_s)))
    if error.code in (ErrorCode.PAYLOAD_TOO_LARGE, ErrorCode.BODY_TIMEOUT):
        headers["connection"] = "close"
    if error.attempts:
        headers["x-penstock-attempts"] = str(error.attempts)
    if error.hedged:
        headers["x-penstock-hedged"] = error.hedged
    return _error_response(int(STATUS_OF[error.code]), body_of(error), request_id, headers)


def failure_response(
    error: Exception,
    request_id: str,
    default_retry_after_s: float,
    body_of: ErrorFormat = plain_error_body,
    **context: object,
) -> Response:
    """Log a request's failure, as loudly as it deserves, and answer it.

    Args:
        error: what was raised; anything but a domain error is a fault of ours.
        request_id: of the request.
        default_retry_after_s: for `Retry-After`, if the error does not say.
        body_of: how the answer's body words it.
        context: fields for the log.
    """
    if not isinstance(error, PenstockError):
        if _may_log(type(error).__name__):
            _log.error("request failed", request_id=request_id, **context, exc_info=error)
        error = PenstockError(ErrorCode.INTERNAL, INTERNAL_ERROR)
        return domain_error_response(error, request_id, default_retry_after_s, body_of)
    response = domain_error_response(error, request_id, default_retry_after_s, body_of)
    if not _may_log(_kind_of(error, context)):
        return response
    fields = {
        "request_id": request_id,
        "status": response.status_code,
        "code": error.code.value,
        "message": error.message,
        **context,
    }
    if error.failed:
        fields["attempts"] = [asdict(attempt) for attempt in error.failed]
    if error.code in OVERLOAD:
        _log.debug("request refused", **fields)
    elif response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.warning("request failed", **fields)
    else:
        _log.info("request refused", **fields)
    return response


def _kind_of(error: PenstockError, context: Mapping[str, object]) -> str:
    """By what lines are counted: one model that fails is to hide no other.

    Only names that reached a replica count, since others are whatever clients make up.
    """
    return f"{error.code.value} of {context.get('model')}" if error.failed else error.code.value


def _may_log(kind: str) -> bool:
    """Whether a line may be written; what was left out is told when its minute is over."""
    now = time.monotonic()
    _tell_left_out(now)
    if _limit.may_write(kind, now):
        return True
    if not _told_later:
        _told_later.append(asyncio.get_running_loop().call_later(WINDOW_S, _minute_is_over))
    return False


def _minute_is_over() -> None:
    _told_later.clear()
    _tell_left_out(time.monotonic())


def _tell_left_out(now: float) -> None:
    for kind, count in _limit.over(now).items():
        _log.warning("lines were left out: requests refused or failed", kind=kind, left_out=count)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """The framework's own answers, such as 404 and 405, in our shape."""
    assert isinstance(error, HTTPException)
    request_id = request_id_of(dict(request.scope["headers"]))
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers = {"allow": ", ".join(_methods_at(request))}
    return error_response(error.status_code, str(error.detail).lower(), request_id, headers)


def _methods_at(request: Request) -> list[str]:
    """All methods that there are at a path; the framework names those of its first route there."""
    methods: set[str] = set()
    for route in request.app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return sorted(methods)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    places = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors()[:8])
    request_id = request_id_of(dict(request.scope["headers"]))
    return error_response(HTTPStatus.BAD_REQUEST, f"invalid request: {places}", request_id)


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    request_id = request_id_of(dict(request.scope["headers"]))
    return failure_response(error, request_id, 1.0, path=request.scope["path"])


def install_error_handlers(app: FastAPI) -> None:
    """Make an application answer all errors in our shape."""
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(Exception, _on_unforeseen)

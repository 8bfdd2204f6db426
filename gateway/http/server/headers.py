"""What the headers of a request say, each in one function; header names are lower case."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from penstock.gateway.http.payload import RawHeaders
from penstock.gateway.http.server.compression import Coding, coding_named
from penstock.gateway.http.tensors.bad_input import bad_input, mismatch, quoted
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.ids import new_request_id
from penstock.shared.process.tracing import join_context

BODY_TYPES = frozenset(
    {
        b"",
        b"application/json",
        b"application/octet-stream",
        # What `curl -d` says unless it is told otherwise; of pages, `origin_checks` refuses both.
        b"application/x-www-form-urlencoded",
        b"text/plain",
    }
)

JSON_LENGTH_HEADER = b"inference-header-content-length"
TIMEOUT_HEADER = b"x-request-timeout-seconds"

_REQUEST_ID = re.compile(rb"[!-~](?:[ -~]{0,126}[!-~])?")
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_TRACESTATE = re.compile(rb"[!-~](?:[ -~]{0,510}[!-~])?")
_WAIT = re.compile(r"[0-9]{1,9}")
_DIGITS_MAX = 18
"""Most digits of a length: more than any body, and within 64 bits."""


def request_id_of(headers: RawHeaders) -> str:
    """The client's id for the request, if it is printable and at most 128 long, or a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return new_request_id()


def trace_context_of(headers: RawHeaders) -> str:
    """The W3C trace context as `penstock.shared.process.tracing` has it; empty if there is none
    that is well-formed.

    A tracestate that is not well-formed is dropped, and one without a traceparent, as W3C wants it.
    """
    given = headers.get(b"traceparent")
    if given is None or not _TRACEPARENT.fullmatch(given):
        return ""
    state = headers.get(b"tracestate")
    kept = state if state is not None and _TRACESTATE.fullmatch(state) else b""
    return join_context(given.decode("ascii"), kept.decode("ascii"))


def timeout_s_header(headers: RawHeaders) -> float | None:
    """`x-request-timeout-seconds`, or None if there is none.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        text = quoted(given.decode("latin-1"))
        raise mismatch("header x-request-timeout-seconds", "a number above 0", text)
    return seconds


def json_length_of(headers: RawHeaders) -> int | None:
    """`Inference-Header-Content-Length`, or None if there is none.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    given = headers.get(JSON_LENGTH_HEADER)
    if given is None:
        return None
    text = given.strip()
    if not text.isdigit() or len(text) > _DIGITS_MAX:
        expected = "a whole number of bytes, not negative"
        got = quoted(given.decode("latin-1"))
        raise mismatch("Inference-Header-Content-Length", expected, got)
    return int(text)


def content_length_of(headers: RawHeaders) -> int | None:
    """`Content-Length`, or None if the body's length is not announced.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    given = headers.get(b"content-length")
    if given is None:
        return None
    digits = given.rstrip(b" \t")  # the parser leaves what is behind the number
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        raise bad_input("Content-Length: expected a whole number")
    return int(digits)


def check_content_type(headers: RawHeaders) -> None:
    """Refuse bodies that say they are something we do not read.

    Raises:
        PenstockError: UNSUPPORTED_MEDIA_TYPE.
    """
    given = headers.get(b"content-type", b"")
    if given not in BODY_TYPES and given.partition(b";")[0].strip().lower() not in BODY_TYPES:
        raise unsupported_media_type(
            "content type", "application/json or application/octet-stream", given
        )


def unsupported_media_type(what: str, expected: str, got: bytes) -> PenstockError:
    """The error for a body that says it is something we do not read."""
    text = quoted(got.decode("latin-1"))
    return PenstockError(
        ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"{what}: expected {expected}, got {text}"
    )


def content_coding_of(headers: Sequence[tuple[bytes, bytes]]) -> Coding | None:
    """How the body is compressed, by its `Content-Encoding`; None if it is not.

    Args:
        headers: all of the request's, as one may come several times.

    Raises:
        PenstockError: UNSUPPORTED_MEDIA_TYPE, also for several codings one upon the other.
    """
    given = b",".join([value for name, value in headers if name == b"content-encoding"])
    name = given.strip().lower().decode("latin-1")
    if name in ("", "identity"):
        return None
    coding = coding_named(name)
    if coding is None:
        raise unsupported_media_type("content encoding", "gzip or deflate", given)
    return coding


def preferred_wait_s(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """What `Prefer: respond-async, wait=N` asks for: N, or 0.0; None if it is not asked for.

    Args:
        headers: all of the request's, as one may come several times.

    Raises:
        PenstockError: INVALID_INPUT, for a wait that is no number of seconds.
    """
    values = [value.decode("latin-1") for name, value in headers if name == b"prefer"]
    if not values:
        return None
    preferences: dict[str, str] = {}
    for preference in ",".join(values).split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))  # the first counts
    if "respond-async" not in preferences:
        return None
    wait = preferences.get("wait", "0")
    if not _WAIT.fullmatch(wait):
        raise mismatch("header Prefer: wait", "a whole number of seconds", quoted(wait))
    return float(wait)

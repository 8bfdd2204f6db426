"""Who may ask: what a page in a browser is refused; pure, and the same on both ways of a request.

Theory: a browser lets any page send some requests anywhere (a form, a text, anything without a
type), and lets it read the answers of its own host, whose name may be made to mean this machine
(DNS rebinding). A page cannot choose the `Host` and `Origin` that are sent for it. So:

- `Host` is a name that this gateway goes by, or an IP address, which cannot be rebound;
- a request that computes or changes something, and names an `Origin`, comes from a page of this
  very host, or of an origin that the operator listed;
- what a form sends is not taken for JSON if a browser sent it.

A client that is no browser sends neither `Origin` nor `Sec-Fetch-*`, and is not concerned.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.gateway.clients.origin_policy import OriginPolicy
from penstock.gateway.http.tensors.bad_input import quoted
from penstock.shared.contracts.errors import ErrorCode, PenstockError

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that compute and change nothing."""

FORM_TYPES = frozenset(
    {b"application/x-www-form-urlencoded", b"multipart/form-data", b"text/plain"}
)
"""What a page may send anywhere without asking first."""


def refusal(
    policy: OriginPolicy, method: str, headers: Mapping[bytes, bytes]
) -> PenstockError | None:
    """Why a request is refused before anything is looked at but its headers; None if it is not.

    Args:
        policy: the operator's.
        method: of the request.
        headers: names in lower case.
    """
    host = headers.get(b"host")
    if host is not None and not policy.knows_host(host):
        return PenstockError(
            ErrorCode.UNKNOWN_HOST,
            f"Host: expected localhost, an IP address or one of --allowed-hosts, "
            f"got {quoted(host.decode('latin-1'))}",
        )
    if method in READING:
        return None
    origin = headers.get(b"origin")
    if origin is not None:
        if not (policy.lists(origin) or _is_of(host, origin)):
            return _foreign(
                f"Origin: expected this host or one of --cors-origins, got {_q(origin)}"
            )
    elif headers.get(b"sec-fetch-site") == b"cross-site":
        return _foreign("Sec-Fetch-Site: expected a page of this host, got cross-site")
    given = headers.get(b"content-type", b"")
    if is_form(given) and is_from_browser(headers):
        return PenstockError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"content type: expected application/json of a page, got {_q(given)}",
        )
    return None


def is_form(content_type: bytes) -> bool:
    """Whether a body says that it is what a page may send anywhere."""
    return content_type.partition(b";")[0].strip().lower() in FORM_TYPES


def is_from_browser(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page sent the request, or something that says so."""
    return b"origin" in headers or any(name.startswith(b"sec-fetch-") for name in headers)


def _is_of(host: bytes | None, origin: bytes) -> bool:
    """Whether an origin is that of the host itself, by whatever scheme: TLS may end before us."""
    scheme, _, authority = origin.lower().partition(b"://")
    return host is not None and scheme in (b"http", b"https") and authority == host.strip().lower()


def _foreign(message: str) -> PenstockError:
    return PenstockError(ErrorCode.FOREIGN_ORIGIN, message)


def _q(value: bytes) -> str:
    return quoted(value.decode("latin-1"))

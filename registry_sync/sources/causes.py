"""Why a client could not talk to a server, in few words (pure).

HTTP clients wrap an error in others, and name the host, the path and the number of tries before the
reason, which then stands where a log cuts. So the chain of errors is searched for what tells most.
The clients' classes are known by name: what follows a folder has none of these packages.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus

TEXT_LENGTH_MAX = 300
"""Most of an error's own text that is told behind its cause."""

CHAIN_MAX = 20
"""Most errors of a chain that are looked at; they may refer to each other."""

_TIMEOUTS = frozenset(
    {"ReadTimeoutError", "ConnectTimeoutError", "ReadTimeout", "ConnectTimeout", "Timeout"}
)
_LIMIT = re.compile(r"timeout=([0-9.]+)")
_STATUS = re.compile(r"(?:error code|too many|responded with) (\d{3})\b")
_PASSWORD = re.compile(r"//[^/@\s]*@")
_LOGIN = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


def explained(error: BaseException, place: str) -> str:
    """An error for the log: its cause first, then where, then its own words as far as they fit."""
    line = _PASSWORD.sub("//", " ".join(str(error).split()))[:TEXT_LENGTH_MAX]
    text = f"{type(error).__name__}: {line}"
    cause = cause_of(error)
    return f"{cause} ({place}: {text})" if cause else f"{text} ({place})"


def cause_of(error: BaseException) -> str:
    """What is wrong, such as `TLS: certificate verify failed` or `timed out after 10 s`.

    Empty where nothing in the chain of errors tells more than the error's own words.
    """
    chain = list(_chain(error))
    for look in (_tls, _name, _timeout, _status, _page, _system):
        for each in chain:
            if cause := look(each):
                return cause
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it was made of."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending and len(seen) < CHAIN_MAX:
        each = pending.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [getattr(each, "reason", None), each.__cause__, each.__context__, *each.args]


def _tls(error: BaseException) -> str:
    if not isinstance(error, ssl.SSLError):
        return ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: certificate verify failed: {error.verify_message}"
    return f"TLS: {(error.reason or str(error)).lower().replace('_', ' ')}"


def _name(error: BaseException) -> str:
    return f"host not found: {error.strerror}" if isinstance(error, socket.gaierror) else ""


def _timeout(error: BaseException) -> str:
    if type(error).__name__ not in _TIMEOUTS and not isinstance(error, TimeoutError):
        return ""
    limit = _LIMIT.search(str(error))
    return f"timed out after {float(limit[1]):g} s" if limit else "timed out"


def _status(error: BaseException) -> str:
    response = getattr(error, "response", None)
    number = getattr(response, "status_code", None)
    if number is None and (found := _STATUS.search(str(error))):
        number = int(found[1])
    if number not in set(HTTPStatus):
        return ""
    status = HTTPStatus(number)
    login = ", check the login" if status in _LOGIN else ""
    return f"HTTP {status.value} {status.phrase}{login}"


def _page(error: BaseException) -> str:
    is_page = "not in a valid JSON format" in str(error)
    return "no JSON, as MLflow answers" if is_page else ""


def _system(error: BaseException) -> str:
    return str(error.strerror or "") if isinstance(error, OSError) else ""

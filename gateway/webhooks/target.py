"""The URL of a webhook, taken apart once: what is checked is what is connected to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address, ip_address
from urllib.parse import urlsplit

from penstock.gateway.webhooks.addresses import Network, refusal
from penstock.shared.contracts.errors import ErrorCode, PenstockError

URL_CHARACTERS_MAX = 2048
HOST_CHARACTERS_MAX = 253
DEFAULT_PORTS = {"http": 80, "https": 443}

_PRINTABLE = re.compile(r"[!-~]+")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True)
class Target:
    """Where a webhook goes.

    Attributes:
        scheme: `http` or `https`.
        host: a name, or an address without brackets.
        path: path and query, as they are asked for.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port for the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def read_target(url: str, allowed: Sequence[Network]) -> Target:
    """The parts of a URL; for a submit too, so that mistakes are told when they are made.

    Args:
        allowed: networks that may be sent to besides the public ones. Names are not looked up here.

    Raises:
        PenstockError: INVALID_INPUT, if no webhook may be sent there.
    """
    if len(url) > URL_CHARACTERS_MAX:
        raise _invalid(f"at most {URL_CHARACTERS_MAX} characters")
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise _invalid("ASCII without spaces (a host in punycode, a path with %-escapes)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _invalid("a URL") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise _invalid("http or https")
    if "@" in parts.netloc:
        raise _invalid("a URL without a user name or password")
    if port == 0:
        raise _invalid("a port of 1 to 65535")
    host = _host(parts.hostname or "", bracketed="[" in parts.netloc)
    _check_literal(host, allowed)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


def _host(host: str, bracketed: bool) -> str:
    if bracketed and "%" not in host:
        try:
            return str(IPv6Address(host))
        except AddressValueError as error:
            raise _invalid("a host") from error
    if bracketed or len(host) > HOST_CHARACTERS_MAX or not _NAME.fullmatch(host):
        raise _invalid("a host")
    return host


def _check_literal(host: str, allowed: Sequence[Network]) -> None:
    try:
        address = ip_address(host)
    except ValueError:
        return
    kind = refusal(address, allowed)
    if kind is not None:
        raise PenstockError(
            ErrorCode.INVALID_INPUT, f"webhook: {kind} addresses are not allowed here"
        )


def _invalid(expected: str) -> PenstockError:
    return PenstockError(ErrorCode.INVALID_INPUT, f"webhook: expected {expected}")

"""Which hosts a gateway goes by, and which pages may use it: the operator's two lists. Pure.

Next: `penstock.gateway.http.server.origin_checks`, which holds requests against them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

HOST_BYTES_MAX = 300
"""Longest `Host` that is looked at: a name has 253 characters at most."""

HOSTS_MAX = 1024
"""Values of `Host` whose name is remembered."""

LOOPBACK_NAME = "localhost"
ANY = "*"

_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """Whom the operator lets ask.

    Attributes:
        hosts: names that this gateway goes by, in lower case, besides those of the loopback and any
            IP address; None: it goes by any name.
        origins: whose pages may use it, in lower case, besides its own.
        any_origin: all pages may.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()
    any_origin: bool = False

    def knows_host(self, host: bytes) -> bool:
        """Whether a `Host` is one that this gateway goes by."""
        if self.hosts is None:
            return True
        name = _name_in(host) if len(host) <= HOST_BYTES_MAX else ""
        return (
            name is None
            or name in self.hosts
            or name == LOOPBACK_NAME
            or name.endswith(f".{LOOPBACK_NAME}")
        )

    def lists(self, origin: bytes) -> bool:
        """Whether the operator lets pages of an origin ask."""
        return self.any_origin or origin.decode("latin-1").lower() in self.origins


@lru_cache(HOSTS_MAX)
def _name_in(host: bytes) -> str | None:
    """The name in a `Host`, in lower case; None for an IP address."""
    text = host.decode("latin-1").strip().lower()
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.removesuffix(".")
    return None


def read_hosts(text: str) -> frozenset[str] | None:
    """The names in a setting such as `models.example.org, penstock`; None for `*`, any.

    Raises:
        ValueError: if one of them is no name.
    """
    names = _listed(text)
    if ANY in names:
        return None
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected names without ports, or *, got {name!r:.80}")
    return names


def read_origins(text: str) -> tuple[frozenset[str], bool]:
    """The origins in a setting such as `https://app.example.org`, and whether any is meant (`*`).

    Raises:
        ValueError: if one of them is no origin.
    """
    origins = _listed(text)
    if ANY in origins:
        return frozenset(), True
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"expected origins as http://HOST[:PORT], or *, got {origin!r:.80}")
    return origins, False


def _listed(text: str) -> frozenset[str]:
    return frozenset(part.strip().lower() for part in text.split(",")) - {""}


def origin_policy(
    allowed_hosts: str, cors_origins: str, *, loopback: bool, host: str = ""
) -> OriginPolicy:
    """The policy of a gateway.

    Args:
        allowed_hosts: the setting; empty: of the loopback where it listens there, or else any.
        cors_origins: the setting.
        loopback: whether it listens on the loopback alone.
        host: what it was told to listen on, which may be a name of the loopback.
    """
    hosts = read_hosts(allowed_hosts) if allowed_hosts or loopback else None
    if hosts is not None and host:
        hosts |= {host.lower()}
    origins, any_origin = read_origins(cors_origins)
    return OriginPolicy(hosts, origins, any_origin)

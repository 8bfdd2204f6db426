"""Hosts and ports: how they are written in URLs, and which of them are this machine alone."""

from __future__ import annotations

import ipaddress


def url_of(host: str, port: int) -> str:
    """The URL of a server on a host, which may be an IPv6 address."""
    return f"http://{authority_of(host, port)}"


def authority_of(host: str, port: int) -> str:
    """Host and port as in a URL: IPv6 addresses stand in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Whether an address, as a socket has it, is reached from this machine alone."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback

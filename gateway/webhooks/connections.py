"""Connections to receivers of webhooks, to addresses that were checked and to no others.

A name is looked up once for a connection, every address that comes of it is judged, and one of them
is connected to as it is: between look-up and connection, nobody can make the name mean something
else. TLS is still that of the name, and so is the Host header.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeAlias

import httpcore

from penstock.gateway.webhooks.addresses import Address, Network, refusal
from penstock.shared.process.blocking import in_thread

ADDRESSES_TRIED_MAX = 3
"""Of those that a name has; each may take the whole connect timeout."""

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[Address]]]
"""The addresses of a host for a TCP port; raises OSError if there are none."""


class AddressRefusedError(Exception):
    """A receiver's address is one that nothing may be sent to."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Look a host up as the system does.

    Raises:
        OSError: if it has no address.
    """
    found = await in_thread(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    return list(dict.fromkeys(ip_address(str(place[0])) for *_, place in found))


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """Verifies certificates and names.

    Args:
        ca_file: certificates to trust instead of the system's.

    Raises:
        OSError: if the file cannot be read, or holds none.
    """
    return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Makes httpcore's connections, to checked addresses.

    Args:
        allowed: networks that may be connected to besides the public ones.
        look_up: gives the addresses of a name.
    """

    def __init__(self, allowed: Sequence[Network], look_up: Resolve = resolve) -> None:
        self._allowed = allowed
        self._look_up = look_up
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of a host's addresses that accepts.

        Raises:
            AddressRefusedError: if any of them may not be connected to; a name that has both kinds
                is up to no good.
            httpcore.ConnectError: if the host has no address, or none accepts.
            httpcore.ConnectTimeout: if the last one that was tried takes too long.
        """
        addresses = await self._addresses(host, port)
        for address in addresses:
            kind = refusal(address, self._allowed)
            if kind is not None:
                raise AddressRefusedError(f"the host has a {kind} address, which is not allowed")
        *earlier, last = addresses[:ADDRESSES_TRIED_MAX]
        for address in earlier:
            try:
                return await self._tcp.connect_tcp(str(address), port, timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._tcp.connect_tcp(str(last), port, timeout)

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        try:
            addresses = await self._look_up(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"the host is not found: {error.strerror}") from error
        if not addresses:
            raise httpcore.ConnectError("the host has no address")
        return addresses

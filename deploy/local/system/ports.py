"""TCP ports: checked before anything starts, and the listening socket that gateways share."""

from __future__ import annotations

import errno
import socket

from penstock.deploy.local.cli.failures import CommandError
from penstock.shared.contracts.addresses import authority_of

BACKLOG = 2048
"""Connections the kernel holds while gateways are busy or restarting; capped by somaxconn."""


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket on `host:port`, not inherited unless passed on.

    Args:
        host: name or address of an interface.
        port: 0 for one that the kernel picks.
        flag: the option that chooses another port, for the message.

    Raises:
        CommandError: if it cannot be had; one line says why.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise CommandError(f"{host}: no such address ({error.strerror})", exit_code=2) from error
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CommandError(_cannot_listen(host, port, flag, error)) from error
    return listener


def check_free(host: str, port: int, flag: str) -> None:
    """Raise `CommandError` if nobody could listen on `host:port` now."""
    listen(host, port, flag).close()


def port_of(listener: socket.socket) -> int:
    """The port that a socket is bound to."""
    return int(listener.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """The URL by which this machine reaches a server that listens on `host:port`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"http://{authority_of(reachable, port)}"


def _cannot_listen(host: str, port: int, flag: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; choose another with {flag}"
    where = f"{authority_of(host, port)} ({error.strerror})"
    return f"cannot listen on {where}; choose another with {flag}"

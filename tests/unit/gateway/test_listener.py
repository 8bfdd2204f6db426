"""The socket that a gateway serves HTTP on."""

from __future__ import annotations

import socket

import pytest

from gateway.__main__ import open_listener
from gateway.settings import GatewaySettings


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        named = rf"127\.0\.0\.1:{port} \(Address already in use\).*--port"
        with pytest.raises(OSError, match=named):
            open_listener(GatewaySettings(port=port))

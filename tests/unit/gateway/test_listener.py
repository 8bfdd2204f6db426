"""The socket that a gateway serves HTTP on."""

from __future__ import annotations

import socket

import pytest
from pydantic import ValidationError

from penstock.gateway.__main__ import open_listener, policy_of
from penstock.gateway.settings import GatewaySettings
from penstock.shared.contracts.addresses import url_of


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        named = rf"127\.0\.0\.1:{port} \(Address already in use\).*--port"
        with pytest.raises(OSError, match=named):
            open_listener(GatewaySettings(port=port))


def test_an_ipv6_address_stands_in_brackets() -> None:
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"\[::1\]:{port}"):
            open_listener(GatewaySettings(host="::1", port=port))
    assert url_of("::1", 8080) == "http://[::1]:8080"
    assert url_of("127.0.0.1", 8080) == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("host", "hosts"),
    [("127.0.0.1", {"127.0.0.1"}), ("localhost", {"localhost"}), ("0.0.0.0", None)],
)
def test_names_are_looked_at_where_it_listens_on_the_loopback(
    host: str, hosts: set[str] | None
) -> None:
    settings = GatewaySettings(host=host, port=0)
    with open_listener(settings) as listener:
        found = policy_of(settings, listener).hosts
        assert found == (None if hosts is None else frozenset(hosts))
        named = GatewaySettings(host=host, port=0, allowed_hosts="a, B.example")
        assert policy_of(named, listener).hosts == frozenset({"a", "b.example", host})
        assert policy_of(GatewaySettings(allowed_hosts="*"), listener).hosts is None


@pytest.mark.parametrize("wrong", [{"allowed_hosts": "http://a"}, {"cors_origins": "a.example"}])
def test_lists_of_names_and_origins_are_read_at_the_start(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="expected"):
        GatewaySettings(**wrong)  # type: ignore[arg-type]

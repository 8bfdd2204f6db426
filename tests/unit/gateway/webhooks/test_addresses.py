"""Which addresses may be sent to, and which URLs name one."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.webhooks.addresses import METADATA, Address, refusal
from penstock.gateway.webhooks.target import Target, read_target
from penstock.shared.contracts.errors import ErrorCode, PenstockError

EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))

addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
v4 = st.ip_addresses(v=4)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("unspecified", "0.0.0.0"),
        ("unspecified", "::"),
        ("loopback", "127.0.0.1"),
        ("loopback", "127.255.255.254"),
        ("loopback", "::1"),
        ("loopback", "::ffff:127.0.0.1"),
        ("loopback", "::127.0.0.1"),
        ("loopback", "64:ff9b::7f00:1"),
        ("loopback", "2002:7f00:1::"),
        ("link-local", "169.254.1.1"),
        ("link-local", "fe80::1"),
        ("link-local", "fe80::1%eth0"),
        ("multicast", "224.0.0.1"),
        ("multicast", "239.255.255.255"),
        ("multicast", "ff02::1"),
        ("private", "10.0.0.1"),
        ("private", "172.16.0.1"),
        ("private", "192.168.1.1"),
        ("private", "::ffff:10.0.0.1"),
        ("private", "fd00::1"),
        ("private", "fc00::1"),
        ("private", "0.0.0.1"),
        ("private", "198.18.0.1"),
        ("private", "192.0.2.1"),
        ("private", "255.255.255.255"),
        ("private", "2001:db8::1"),
        ("private", "2001:0:102:304::1"),
        ("reserved", "100.64.0.1"),
        ("reserved", "fec0::1"),
        ("reserved", "4000::1"),
        ("metadata", "169.254.169.254"),
        ("metadata", "::ffff:169.254.169.254"),
        ("metadata", "64:ff9b::a9fe:a9fe"),
        ("metadata", "fd00:ec2::254"),
        ("metadata", "100.100.100.200"),
        ("metadata", "168.63.129.16"),
        (None, "8.8.8.8"),
        (None, "172.32.0.1"),
        (None, "::ffff:8.8.8.8"),
        (None, "64:ff9b::808:808"),
        (None, "2606:4700:4700::1111"),
    ],
)
def test_kinds(kind: str | None, text: str) -> None:
    assert refusal(ip_address(text), ()) == kind


@given(addresses)
def test_what_is_allowed_is_public(address: Address) -> None:
    if refusal(address, ()) is None:
        assert address.is_global or not isinstance(address, IPv4Address)
        assert not address.is_multicast
        assert not address.is_loopback


@given(v4)
def test_an_address_is_judged_alike_in_all_its_clothes(address: IPv4Address) -> None:
    number = int(address)
    clothes = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x2002 << 112) | (number << 80) | 1),
        IPv6Address((0x64FF9B << 96) | number),
    ]
    assert {refusal(each, ()) for each in clothes} == {refusal(address, ())}


@given(addresses)
def test_allowing_everything_gives_no_credentials_away(address: Address) -> None:
    assert refusal(address, EVERYTHING) == ("metadata" if address in METADATA else None)


@pytest.mark.parametrize("address", METADATA)
def test_metadata_is_allowed_by_name(address: Address) -> None:
    assert refusal(address, EVERYTHING) == "metadata"
    assert refusal(address, (ip_network(str(address)),)) is None


def test_an_allowed_network_is_no_more_than_that() -> None:
    allowed = (ip_network("10.1.0.0/16"),)
    assert refusal(ip_address("10.1.2.3"), allowed) is None
    assert refusal(ip_address("::ffff:10.1.2.3"), allowed) is None
    assert refusal(ip_address("10.2.2.3"), allowed) == "private"


@pytest.mark.parametrize(
    ("url", "target", "authority"),
    [
        ("https://Example.com", Target("https", "example.com", 443, "/"), "example.com"),
        ("http://a.b:80/x#part", Target("http", "a.b", 80, "/x"), "a.b"),
        ("HTTP://a.b:1/x?y=1&z", Target("http", "a.b", 1, "/x?y=1&z"), "a.b:1"),
        ("http://a?y", Target("http", "a", 80, "/?y"), "a"),
        (
            "https://[2606:4700::0:1]:8443/",
            Target("https", "2606:4700::1", 8443, "/"),
            "[2606:4700::1]:8443",
        ),
    ],
)
def test_urls(url: str, target: Target, authority: str) -> None:
    assert read_target(url, ()) == target
    assert target.authority == authority


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "http://",
        "http://:80/",
        "http://a:0/",
        "http://a:65536/",
        "http://a:x/",
        "http://me@a/",
        "http://me:secret@a/",
        "http://a\\@b/",
        "http://a/\r\nX-Y: 1",
        "http://a/ b",
        " http://a/",
        "http://a\tb/",
        "http://ä.example/",
        "http://a..b/",
        "http://a%2eb/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://[v1.x]/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/latest",
        "http://" + "a" * 64 + ".b/",
        "http://a/" + "b" * 2048,
    ],
)
def test_no_urls_for_webhooks(url: str) -> None:
    with pytest.raises(PenstockError) as caught:
        read_target(url, ())
    assert caught.value.code is ErrorCode.INVALID_INPUT
    assert caught.value.message.startswith("webhook: ")


@given(st.text())
def test_any_text_is_a_target_or_invalid(text: str) -> None:
    for url in (text, f"http://{text}", f"http://a/{text}"):
        with suppress(PenstockError):  # and nothing else
            target = read_target(url, ())
            assert target.path.startswith("/")
            assert (target.host + target.path).isascii()
            assert not set(target.host) & set("/@?#\\ ")

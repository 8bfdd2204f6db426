"""Which addresses webhooks may be sent to: those of the public internet, and what operators allow.

A client names the URL, and we are inside the operator's network: without this rule, a webhook would
be a way to talk to what only that network can reach. An address is judged by what it stands for:
one that carries an IPv4 address (mapped, 6to4, NAT64) goes where that one goes. Addresses that hand
out credentials of cloud machines must be allowed one by one, as a network of that address alone, so
that an operator who allows everything for a test does not give those away.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # most clouds
            "169.254.170.2",  # ECS tasks
            "169.254.170.23",  # EKS pods
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",  # Google
            "100.100.100.200",  # Alibaba
            "168.63.129.16",  # Azure's, a public address
            "192.0.0.192",  # Oracle
        ),
    )
)

GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
COMPATIBLE = IPv6Network("::/96")


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """What kind of address it is that may not be sent to; None if it may.

    Args:
        allowed: networks that may be sent to, whatever they are.
    """
    real = carried(address)
    if real in METADATA:
        return None if _alone(real) in allowed else "metadata"
    if any(each in network for network in allowed for each in (address, real)):
        return None
    return _kind(real)


def carried(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does; else the address."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    number = int(address)
    if address in NAT64 or (address in COMPATIBLE and number > 1):
        return IPv4Address(number & 0xFFFFFFFF)
    return address


def _kind(address: Address) -> str | None:
    kinds = {
        "unspecified": address.is_unspecified,
        "loopback": address.is_loopback,
        "link-local": address.is_link_local,
        "multicast": address.is_multicast,
        "private": address.is_private,
        "reserved": address.is_reserved or not _is_global(address),
    }
    return next((kind for kind, applies in kinds.items() if applies), None)


def _is_global(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return False
    return address.is_global


def _alone(address: Address) -> Network:
    return ip_network(int(address).to_bytes(address.max_prefixlen // 8, "big"))

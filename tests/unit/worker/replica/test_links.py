"""Links to gateways: followed, left, and dialled again when silent."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import zmq

from penstock.shared.wire.codec import SHARED_BYTES_MIN, copied_on_send
from penstock.worker.control.messages import GatewayAddress
from penstock.worker.replica.links import REDIAL_S, Links
from tests.e2e.system import free_port


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        context.setsockopt(zmq.LINGER, 0)
        yield context


@pytest.fixture
def links(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Links]:
    links = Links(context, zmq.Poller(), "r")
    yield links
    links.close()


def router(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """A gateway's end; a replica that has connected greets it."""
    router = context.socket(zmq.ROUTER)
    router.bind(endpoint)
    return router


def greets(end: zmq.Socket[bytes], links: Links, name: str, timeout_s: float = 3.0) -> bool:
    """Whether the replica's greeting comes; a socket works only while its owner looks at it."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        link = links.socket(name)
        assert link is not None
        link.poll(10)
        if end.poll(10):
            return end.recv_multipart() == [b"r", b""]
    return False


def address(name: str) -> GatewayAddress:
    return GatewayAddress(gateway=name, endpoint=f"tcp://127.0.0.1:{free_port()}")


def test_links_follow_the_gateways_that_are_named(
    context: zmq.Context[zmq.Socket[bytes]], links: Links
) -> None:
    a, b = address("a"), address("b")
    ends = [router(context, each.endpoint) for each in (a, b)]
    assert links.follow([a, b], 0.0) == []
    for name, end in zip("ab", ends, strict=True):
        assert greets(end, links, name)
    kept = links.socket("a")
    assert links.follow([a, address("b")], 0.0) == ["b"]  # it moved
    assert links.socket("a") is kept
    assert links.follow([a], 0.0) == ["b"]
    assert links.socket("b") is None


def test_a_refused_link_is_dialled_again_once_it_was_silent_for_long(
    context: zmq.Context[zmq.Socket[bytes]], links: Links
) -> None:
    gateway, now = address("g"), time.monotonic()
    other = context.socket(zmq.ROUTER)
    other.setsockopt(zmq.CURVE_SERVER, 1)  # has keys, we have none: libzmq gives up for good
    other.setsockopt(zmq.CURVE_SECRETKEY, zmq.curve_keypair()[1])
    other.bind(gateway.endpoint)
    links.follow([gateway], now)
    assert not greets(other, links, "g", 0.3)
    other.close(linger=0)
    time.sleep(0.2)
    end = router(context, gateway.endpoint)
    assert not greets(end, links, "g", 1.2)
    refused = links.socket("g")
    links.redial_silent(now + REDIAL_S / 2)
    assert links.socket("g") is refused
    links.redial_silent(now + REDIAL_S + 0.001)  # sums of floats are not exact
    assert links.socket("g") is not refused
    assert greets(end, links, "g")


def test_what_waits_to_be_read_is_no_silence(
    context: zmq.Context[zmq.Socket[bytes]], links: Links
) -> None:
    gateway = address("g")
    end = router(context, gateway.endpoint)
    links.follow([gateway], 0.0)
    assert greets(end, links, "g")
    end.send_multipart([b"r", b"x"])
    link = links.socket("g")
    assert link is not None
    assert link.poll(3000)
    links.redial_silent(1000.0)
    assert links.socket("g") is link
    assert links.readable({link: zmq.POLLIN}, 1000.0) == [("g", link)]
    assert link.recv() == b"x"
    links.redial_silent(1001.0)
    assert links.socket("g") is link


def test_what_is_copied_on_sending_is_the_header_and_what_is_not_worth_sharing() -> None:
    shared = bytes(SHARED_BYTES_MIN)
    assert copied_on_send([b"header", shared, shared[1:], memoryview(b"1234")]) == (
        6 + SHARED_BYTES_MIN - 1 + 4
    )

"""Which endpoints a gateway binds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from penstock.gateway.transport.router import (
    ENVELOPE_MESSAGES,
    EndpointError,
    Transport,
    advertised_endpoint,
    check_endpoint,
)
from penstock.shared.wire.codec import FRAMES_MAX, decode, encode
from penstock.shared.wire.curve import GatewayKeys, WorkerKeys
from penstock.shared.wire.messages import Cancel, Envelope, Final, Message, Probe, Proceed, Request
from penstock.shared.wire.tensors import Tensor
from penstock.worker.replica.links import dial
from tests.unit.shared.hostile_msgpack import array, nested


class Nobody:
    """Is told and does nothing but remember who was lost."""

    def __init__(self) -> None:
        self.lost: list[str] = []
        self.messages: list[Message] = []
        self.unencodable: list[tuple[str, Request]] = []
        self.refused: list[Request] = []

    def message_received(self, replica_id: str, message: Message) -> None:
        self.messages.append(message)

    def knows(self, replica_id: str) -> bool:
        return replica_id not in self.lost

    def messages_done(self) -> None: ...

    def not_sent(self, replica_id: str, request: Request) -> None:
        self.refused.append(request)

    def not_encoded(self, replica_id: str, request: Request) -> None:
        self.unencodable.append((replica_id, request))

    def replica_lost(self, replica_id: str) -> None:
        self.lost.append(replica_id)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("tcp://127.0.0.1:5555", "tcp is open to everyone"),
        ("ipc://" + "/long" * 30, "at most 107 bytes, this one has 150"),
        ("udp://127.0.0.1:1", "expected ipc://PATH or tcp://HOST:PORT"),
    ],
)
def test_endpoints_that_cannot_work_or_are_open_to_anyone_are_refused(
    endpoint: str, words: str
) -> None:
    with pytest.raises(EndpointError, match=words):
        check_endpoint(endpoint, secured=False, insecure_tcp=False)


@pytest.mark.parametrize(
    ("endpoint", "address", "words"),
    [
        ("tcp://0.0.0.0:5555", "", "workers cannot dial a wildcard"),
        ("tcp://*:*", "", "workers cannot dial a wildcard"),
        ("tcp://[::]:5555", "", "workers cannot dial a wildcard"),
        ("ipc:///run/penstock/g.ipc", "10.0.0.5", "cannot dial the Unix socket"),
    ],
)
def test_endpoints_that_other_hosts_could_not_dial_are_refused(
    endpoint: str, address: str, words: str
) -> None:
    with pytest.raises(EndpointError, match=words):
        check_endpoint(endpoint, secured=True, insecure_tcp=False, advertise_address=address)


@pytest.mark.parametrize(("secured", "insecure_tcp"), [(True, False), (False, True)])
def test_tcp_is_allowed_with_keys_or_where_the_network_is_trusted(
    secured: bool, insecure_tcp: bool
) -> None:
    check_endpoint("tcp://127.0.0.1:5555", secured=secured, insecure_tcp=insecure_tcp)


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("", "tcp://0.0.0.0:4567"),
        ("10.0.0.5", "tcp://10.0.0.5:4567"),
        ("10.0.0.5:99", "tcp://10.0.0.5:99"),
        ("gateway.example.com", "tcp://gateway.example.com:4567"),
        ("[fd00::5]:99", "tcp://[fd00::5]:99"),
        ("[fd00::5]", "tcp://[fd00::5]:4567"),
        ("fd00::5", "tcp://[fd00::5]:4567"),
    ],
)
def test_what_replicas_are_told_to_dial(address: str, endpoint: str) -> None:
    assert advertised_endpoint("tcp://0.0.0.0:4567", address) == endpoint


async def test_a_folder_that_everyone_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EndpointError, match="writable by everyone"):
        Transport(f"ipc://{folder}/g.ipc", "g", Nobody()).bind()


async def test_any_port_is_told_once_bound() -> None:
    transport = Transport("tcp://127.0.0.1:*", "g", Nobody())
    transport.bind()
    assert transport.endpoint.startswith("tcp://127.0.0.1:")
    await asyncio.sleep(0)
    transport.close(0)


@asynccontextmanager
async def bound(keys: GatewayKeys | None = None) -> AsyncIterator[tuple[Transport, Nobody]]:
    """A transport on any port, and who is told."""
    told = Nobody()
    transport = Transport("tcp://127.0.0.1:*", "g", told, keys)
    transport.bind()
    try:
        yield transport, told
    finally:
        transport.close(0)


async def probed(link: zmq.Socket[bytes], timeout_s: float = 5.0) -> list[Message]:
    """What the gateway says next; nothing if it stays silent."""
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        if link.poll(0):
            return list(decode([memoryview(each) for each in link.recv_multipart()]).messages)
        await asyncio.sleep(0.01)
    return []


async def test_a_replica_that_dials_anew_is_taken_for_lost_and_asked_who_it_is() -> None:
    async with bound() as (transport, told):
        with zmq.Context() as context:
            first = dial(context, "r", transport.endpoint, None)
            assert await probed(first) == [Probe(known=True)]
            assert told.lost == []
            second = dial(context, "r", transport.endpoint, None)  # the first is still connected
            assert await probed(second) == [Probe(known=False)]
            assert told.lost == ["r"]
            for link in (first, second):
                link.close()


async def test_only_who_has_the_right_keys_is_talked_to() -> None:
    gateway_public, gateway_secret = zmq.curve_keypair()
    pairs = [zmq.curve_keypair() for _ in range(3)]
    admitted = frozenset(z85.decode(public) for public, _ in pairs[:2])  # two: keys are rotated
    async with bound(GatewayKeys(gateway_secret, admitted)) as (transport, _):
        with zmq.Context() as context:
            for number, (_, secret) in enumerate(pairs):
                keys = WorkerKeys(secret, gateway_public)
                link = dial(context, f"r{number}", transport.endpoint, keys)
                assert bool(await probed(link, 5.0 if number < 2 else 0.5)) is (number < 2)
                link.close()
            for wrong in (None, WorkerKeys(pairs[0][1], zmq.curve_keypair()[0])):
                link = dial(context, "stranger", transport.endpoint, wrong)
                assert await probed(link, 0.5) == []
                link.close()


async def test_many_messages_of_one_turn_arrive_in_order() -> None:
    count = 3 * ENVELOPE_MESSAGES + 5
    async with bound() as (transport, _):
        with zmq.Context() as context:
            link = dial(context, "r", transport.endpoint, None)
            assert await probed(link) == [Probe(known=True)]
            for number in range(count):
                transport.send("r", Cancel(number))
            got: list[Message] = []
            while len(got) < count and (more := await probed(link)):
                got += more
            assert got == [Cancel(number) for number in range(count)]
            link.close()


async def test_wide_messages_of_one_turn_arrive_in_order_in_several_envelopes() -> None:
    inputs = tuple([Tensor(f"c{at}", "FP32", (1,), bytes(4)) for at in range(9000)])
    sent: list[Message] = [Request(number, 1, inputs) for number in range(5)]
    async with bound() as (transport, _):
        with zmq.Context() as context:
            link = dial(context, "r", transport.endpoint, None)
            assert await probed(link) == [Probe(known=True)]
            for message in sent:
                transport.send("r", message)
            got: list[Message] = []
            while len(got) < len(sent) and (more := await probed(link)):
                assert len(more) < len(sent)
                got += more
            assert got == sent
            link.close()


async def test_a_hostile_envelope_harms_nothing_that_comes_after_it() -> None:
    hostile = [
        [nested(20_000)],
        [array(400_000, b"\x80")],
        [b"head", *[b""] * (2 * FRAMES_MAX)],
    ]
    async with bound() as (transport, told):
        with zmq.Context() as context:
            link = dial(context, "r", transport.endpoint, None)
            assert await probed(link) == [Probe(known=True)]
            for frames in hostile:
                link.send_multipart(frames)
            link.send_multipart(encode(Envelope("g", (Final(7),))))
            async with asyncio.timeout(10):
                while not told.messages:
                    await asyncio.sleep(0.01)
            assert told.messages == [Final(7)]
            assert told.lost == []
            link.close()


async def test_a_replica_that_is_gone_is_a_loss_once_however_many_messages_it_should_get() -> None:
    async with bound() as (transport, told):
        for number in range(3 * ENVELOPE_MESSAGES):
            transport.send("gone", Cancel(number))
        assert told.lost == []  # nobody is told of anything within a call of theirs
        await asyncio.sleep(0.05)
        assert told.lost == ["gone"]


async def test_a_replica_that_dies_is_lost_without_a_word_to_it() -> None:
    async with bound() as (transport, told):
        with zmq.Context() as context:
            links = [dial(context, name, transport.endpoint, None) for name in ("a", "b")]
            for link in links:
                assert await probed(link) == [Probe(known=True)]
            links[0].close()
            async with asyncio.timeout(5):
                while not told.lost:
                    await asyncio.sleep(0.01)
            assert told.lost == ["a"]
            links[1].close()


UNENCODABLE = Request(9, 1, (), parameters=(("seed", 1 << 70),))


@pytest.mark.parametrize("before", [0, ENVELOPE_MESSAGES - 1])
async def test_a_message_that_cannot_be_encoded_is_the_only_one_lost_of_its_turn(
    before: int,
) -> None:
    async with bound() as (transport, told):
        with zmq.Context() as context:
            links = [dial(context, name, transport.endpoint, None) for name in ("a", "b", "c")]
            for link in links:
                assert await probed(link) == [Probe(known=True)]
            sent = [Cancel(number) for number in range(before + 1)]
            for name in ("a", "b", "c"):
                for message in sent[:before]:
                    transport.send(name, message)
                if name == "b":
                    transport.send(name, UNENCODABLE)
                transport.send(name, sent[before])
            for link in links:
                got: list[Message] = []
                while len(got) < len(sent) and (more := await probed(link)):
                    got += more
                assert got == sent
            assert told.unencodable == [("b", UNENCODABLE)]
            assert told.lost == []
            for link in links:
                link.close()


async def test_a_way_that_is_full_refuses_requests_and_delays_all_else() -> None:
    large = (Tensor("x", "FP32", (2000,), bytes(8000)),)
    async with bound() as (transport, told):
        with zmq.Context() as context:
            link = context.socket(zmq.DEALER)
            link.setsockopt(zmq.IDENTITY, b"r")
            link.setsockopt(zmq.PROBE_ROUTER, 1)
            link.setsockopt(zmq.RCVHWM, 1)
            link.connect(transport.endpoint)
            assert await probed(link) == [Probe(known=True)]
            sent = 0
            while not told.refused:
                transport.send("r", Request(sent, 1, large))
                sent += 1
                await asyncio.sleep(0)
            assert told.refused[0].attempt_id == sent - 1
            transport.send("r", Cancel(1))
            transport.send("r", Proceed(2))
            await asyncio.sleep(0)
            got: list[Message] = []
            async with asyncio.timeout(30):
                while got[-2:] != [Cancel(1), Proceed(2)]:
                    transport.send("other", Cancel(1))  # as probes do, ten times a second
                    got += await probed(link, 1.0)
            assert len([each for each in got if isinstance(each, Request)]) == sent - 1
            link.close(linger=0)

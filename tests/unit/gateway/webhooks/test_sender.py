"""Deliveries to real receivers over HTTP and HTTPS."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from penstock.gateway.webhooks.addresses import Address
from penstock.gateway.webhooks.connections import Resolve, resolve, tls_context
from penstock.gateway.webhooks.event import WebhookEvent, webhook_event
from penstock.gateway.webhooks.retries import Delivered, DeliveryOutcome, GaveUp, Retry
from penstock.gateway.webhooks.sender import WebhookSender
from penstock.gateway.webhooks.settings import WebhookSettings
from penstock.shared.process.clock import FakeClock
from tests.unit.gateway.webhooks import receivers
from tests.unit.gateway.webhooks.receivers import receiver, status

KEYS = (b"first-key-" * 3, b"second-key" * 3)
SECRETS = tuple(SecretStr("whsec_" + base64.b64encode(key).decode()) for key in KEYS)
LOOPBACK = ip_network("127.0.0.0/8")
EVENT = webhook_event("msg_1", "job.succeeded", 1_800_000_000.25, {"job": "j1"})
HUNG_S = 0.5
HEAD_OF_1000 = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


def settings(**changes: Any) -> WebhookSettings:
    some = {"secrets": SECRETS, "allow_networks": (LOOPBACK,), "timeout_s": 20.0}
    return WebhookSettings(**(some | changes))


def known(**names: Sequence[str]) -> Resolve:
    """A resolver that knows these names, with `_` for a dot, and looks nothing up."""

    async def look_up(host: str, port: int) -> Sequence[Address]:
        try:
            return [ip_address(each) for each in names[host.replace(".", "_")]]
        except KeyError:
            raise OSError(-2, "Name or service not known") from None

    return look_up


@asynccontextmanager
async def sender(
    look_up: Resolve = resolve, ca_file: Path | None = None, **changes: Any
) -> AsyncIterator[WebhookSender]:
    made = WebhookSender(
        settings(**changes), FakeClock(), tls_context(ca_file), look_up, chance=lambda: 0.0
    )
    try:
        yield made
    finally:
        await made.close()


def failed(outcome: DeliveryOutcome) -> str:
    """The reason of the retry that it must be."""
    assert isinstance(outcome, Retry), outcome
    assert outcome.after_s == 5.0
    assert outcome.attempt == 2
    return outcome.reason


async def test_a_receiver_that_fails_twice_and_then_accepts() -> None:
    answers = (status(500), status(503, "Retry-After: 400"), status(204, body=b""))
    async with receiver(*answers) as there, sender() as webhooks:
        url = f"http://localhost:{there.port}/hook?to=me"
        first = await webhooks.send(url, EVENT)
        assert first == Retry(5.0, 2, "answered 500")
        second = await webhooks.send(url, EVENT, first.attempt)
        assert second == Retry(400.0, 3, "answered 503")
        assert await webhooks.send(url, EVENT, second.attempt) == Delivered(204)
    assert there.connections == 1, "a connection is used again"
    for request in there.received:
        assert request.line == "POST /hook?to=me HTTP/1.1"
        assert request.headers["host"] == f"localhost:{there.port}"
        assert request.headers["content-type"] == "application/json"
        assert request.body == EVENT.body
        assert request.headers["webhook-id"] == "msg_1"
        assert request.headers["webhook-timestamp"] == "1800000000"
        signed = b"msg_1.1800000000." + EVENT.body
        digests = [hmac.new(key, signed, hashlib.sha256).digest() for key in KEYS]
        expected = [f"v1,{base64.b64encode(digest).decode()}" for digest in digests]
        assert request.headers["webhook-signature"].split(" ") == expected
    assert orjson.loads(EVENT.body) == {
        "type": "job.succeeded",
        "timestamp": "2027-01-15T08:00:00.250Z",
        "data": {"job": "j1"},
    }


async def test_attempts_end() -> None:
    async with receiver(status(500)) as there, sender(retry_delays_s=(1.0, 2.0)) as webhooks:
        url = f"http://127.0.0.1:{there.port}/"
        attempt, delays = 1, []
        while isinstance(outcome := await webhooks.send(url, EVENT, attempt), Retry):
            delays.append(outcome.after_s)
            attempt = outcome.attempt
        assert delays == [1.0, 2.0]
        assert outcome == GaveUp("3 attempts failed; the last one: answered 500")


async def test_gone_is_given_up_at_once() -> None:
    async with receiver(status(410)) as there, sender() as webhooks:
        outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
    assert isinstance(outcome, GaveUp)
    assert "410" in outcome.reason


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(code: int) -> None:
    async with receiver(status(200)) as inside:
        answer = status(code, f"Location: http://127.0.0.1:{inside.port}/secret")
        async with receiver(answer) as there, sender() as webhooks:
            outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
        assert failed(outcome) == f"answered {code}"
        assert inside.connections == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (receivers.hang, "no answer within 0.5 s"),
        (receivers.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "no answer within 0.5 s"),
        (receivers.hang_up, "no HTTP, or breaks off"),
        (receivers.nonsense, "no HTTP, or breaks off"),
    ],
)
async def test_a_receiver_without_an_answer(answer: receivers.Answer, reason: str) -> None:
    async with receiver(answer) as there, sender(timeout_s=HUNG_S) as webhooks:
        outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
        assert reason in failed(outcome)
        assert len(there.received) == 1, "one attempt is one request"


async def test_a_head_without_an_end() -> None:
    async with receiver(receivers.endless_headers) as there, sender() as webhooks:
        outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
    assert "no HTTP" in failed(outcome)


@pytest.mark.parametrize(
    "answer",
    [
        receivers.endless_body,
        status(200, body=b"y" * 10_000_000),
        receivers.drip(b"y" * 1000, at_once=HEAD_OF_1000),
    ],
)
async def test_bodies_are_read_so_far_and_no_further(answer: receivers.Answer) -> None:
    """The status says all: a body neither holds a delivery up for long nor fails it."""
    async with receiver(answer) as there, sender(answer_body_s=0.3) as webhooks:
        began = time.monotonic()
        outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
        assert outcome == Delivered(200)
        assert time.monotonic() - began < 15, "the whole body would take a minute or for ever"
        outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
        assert outcome == Delivered(200)
    assert there.connections == 2, "such a connection is not used again"


async def test_the_status_counts_even_if_the_whole_time_is_up_by_the_bodys_end() -> None:
    slow = receivers.drip(b"y" * 1000, at_once=HEAD_OF_1000)
    async with receiver(slow) as there, sender(timeout_s=2.0, answer_body_s=2.0) as webhooks:
        outcome = await webhooks.send(f"http://127.0.0.1:{there.port}/", EVENT)
    assert outcome == Delivered(200)


async def test_nobody_listens() -> None:
    async with receiver(status(200)) as there:
        port = there.port
    async with sender() as webhooks:
        outcome = await webhooks.send(f"http://127.0.0.1:{port}/", EVENT)
    assert "ConnectError" in failed(outcome)


async def test_a_name_that_is_not_found() -> None:
    async with sender(known()) as webhooks:
        outcome = await webhooks.send("http://nowhere.example/", EVENT)
    assert "not found" in failed(outcome)


REFUSED = "http://127.0.0.1:{}/", "http://[::1]:{}/", "http://[::ffff:127.0.0.1]:{}/"
BY_LOOK_UP = "http://localhost:{}/", "http://127.1:{}/", "http://2130706433:{}/", "http://0:{}/"


@pytest.mark.parametrize("url", [*REFUSED, *BY_LOOK_UP])
async def test_loopback_is_refused_however_it_is_written(url: str) -> None:
    async with receiver(status(200)) as there, sender(allow_networks=()) as webhooks:
        outcome = await webhooks.send(url.format(there.port), EVENT)
        assert isinstance(outcome, GaveUp), outcome
        assert "address" in outcome.reason
        assert "127" not in outcome.reason, "what a name means inside is nobody's business"
        assert there.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["169.254.169.254"],
        ["10.0.0.1"],
    ],
)
async def test_a_name_that_means_an_inside_address_is_refused(addresses: list[str]) -> None:
    async with receiver(status(200)) as there:
        async with sender(known(evil_example=addresses), allow_networks=()) as webhooks:
            outcome = await webhooks.send(f"http://evil.example:{there.port}/", EVENT)
        assert isinstance(outcome, GaveUp), outcome
        assert there.connections == 0


async def test_a_name_that_changes_its_meaning_is_looked_up_once() -> None:
    """First a harmless address, then ours: only the first one is ever connected to."""
    answers = [[IPv4Address("127.0.0.2")], [IPv4Address("127.0.0.1")]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[Address]:
        asked.append(host)
        return answers[len(asked) - 1]

    only = (ip_network("127.0.0.2/32"),)
    async with receiver(status(200)) as inside:  # on 127.0.0.1; nobody listens on 127.0.0.2
        async with sender(rebinding, allow_networks=only) as webhooks:
            url = f"http://rebind.example:{inside.port}/"
            assert "ConnectError" in failed(await webhooks.send(url, EVENT))
            assert asked == ["rebind.example"]
            assert isinstance(await webhooks.send(url, EVENT), GaveUp)
        assert inside.connections == 0


async def test_further_addresses_are_tried_when_one_does_not_accept() -> None:
    # The receiver listens on IPv4 alone.
    both = known(two_example=["::1", "127.0.0.1"])
    networks = (LOOPBACK, ip_network("::1/128"))
    async with receiver(status(200)) as there, sender(both, allow_networks=networks) as webhooks:
        outcome = await webhooks.send(f"http://two.example:{there.port}/", EVENT)
    assert outcome == Delivered(200)
    assert there.received[0].headers["host"] == f"two.example:{there.port}"


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/", "http://me:secret@example.com/", "http://@example.com/", "nothing", ""],
)
async def test_what_is_no_url_for_webhooks_is_given_up(url: str) -> None:
    async with sender(known()) as webhooks:
        assert isinstance(await webhooks.send(url, EVENT), GaveUp)


async def test_tls_is_that_of_the_name(tmp_path: Path) -> None:
    context, trusted = receivers.self_signed(tmp_path, "receiver.example")
    names = known(receiver_example=["127.0.0.1"], other_example=["127.0.0.1"])
    async with receiver(status(200), tls=context) as there:
        async with sender(names, trusted) as webhooks:
            url = f"https://receiver.example:{there.port}/"
            assert await webhooks.send(url, EVENT) == Delivered(200)
            assert there.server_names == ["receiver.example"]
            assert there.received[0].headers["host"] == f"receiver.example:{there.port}"
            other = await webhooks.send(f"https://other.example:{there.port}/", EVENT)
            assert "other.example" in failed(other)
            plain = await webhooks.send(f"http://receiver.example:{there.port}/", EVENT)
            failed(plain)
        async with sender(names) as webhooks:
            assert "self-signed" in failed(await webhooks.send(url, EVENT))
    assert len(there.received) == 1, "nothing is said to whom is not trusted"


async def test_a_host_that_hangs_keeps_no_other_waiting() -> None:
    limits: dict[str, Any] = {"concurrency": 4, "concurrency_per_host": 2, "timeout_s": 1.5}
    names = known(slow_example=["127.0.0.1"], good_example=["127.0.0.1"])
    async with (
        receiver(receivers.hang) as slow,
        receiver(status(200)) as good,
        sender(names, **limits) as webhooks,
    ):
        hung = [
            asyncio.create_task(webhooks.send(f"http://slow.example:{slow.port}/", EVENT))
            for _ in range(4)
        ]
        while slow.open < 2:
            await asyncio.sleep(0.01)
        answers = [webhooks.send(f"http://good.example:{good.port}/", EVENT) for _ in range(20)]
        assert await asyncio.gather(*answers) == [Delivered(200)] * 20
        assert not any(each.done() for each in hung), "the good ones were first"
        for outcome in await asyncio.gather(*hung):
            assert failed(outcome) == "no answer within 1.5 s"
    assert good.open_at_most <= 2


async def test_without_room_it_is_not_an_attempt() -> None:
    async with (
        receiver(receivers.hang) as there,
        sender(open_per_host_max=1, timeout_s=HUNG_S, busy_retry_s=7.0) as webhooks,
    ):
        url = f"http://127.0.0.1:{there.port}/"
        first = asyncio.create_task(webhooks.send(url, EVENT))
        await asyncio.sleep(0)
        outcome = await webhooks.send(url, EVENT, attempt=4)
        assert isinstance(outcome, Retry)
        assert (outcome.after_s, outcome.attempt) == (7.0, 4)
        failed(await first)
        assert failed(await webhooks.send(url, EVENT)), "there is room again"


async def test_a_cancelled_delivery_leaves_its_turn() -> None:
    async with (
        receiver(receivers.hang) as there,
        sender(concurrency=1, concurrency_per_host=1) as webhooks,
    ):
        url = f"http://127.0.0.1:{there.port}/"
        sending = [asyncio.create_task(webhooks.send(url, EVENT)) for _ in range(2)]
        while not there.received:
            await asyncio.sleep(0.01)
        for each in sending:
            each.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
        there.answers[:] = [status(200)]
        assert await webhooks.send(url, EVENT) == Delivered(200)


async def test_the_systems_resolver() -> None:
    found = await resolve("localhost", 80)
    assert set(found) <= {IPv4Address("127.0.0.1"), IPv6Address("::1")}
    assert found
    with pytest.raises(OSError, match=r"[Nn]ame|address"):
        await resolve("no-such-name.invalid", 80)


def test_an_events_id_can_be_signed() -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        WebhookEvent("a.b", b"")

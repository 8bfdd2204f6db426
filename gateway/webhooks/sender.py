"""Delivers events to webhooks: one attempt at a time, and what is to be done after it.

The caller keeps what is to be delivered, when, and how often it was tried; nothing is kept here.
Before: whatever records jobs. After: the receiver.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import httpcore

from penstock.gateway.webhooks.connections import (
    AddressRefusedError,
    CheckedBackend,
    Resolve,
    resolve,
)
from penstock.gateway.webhooks.event import WebhookEvent
from penstock.gateway.webhooks.retries import DeliveryOutcome, GaveUp, Retry
from penstock.gateway.webhooks.settings import WebhookSettings
from penstock.gateway.webhooks.signing import signed_headers
from penstock.gateway.webhooks.slots import BusyError, Slots
from penstock.gateway.webhooks.target import Target, read_target
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.process.clock import Clock

IDLE_S = 5.0
"""How long a connection is kept for the next event: as long as a burst of them."""

REASON_CHARACTERS_MAX = 200

FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError)
"""What a receiver or the network may do; broken TLS is an OSError."""

Chance: TypeAlias = Callable[[], float]


class WebhookSender:
    """Sends signed events; `close` ends its connections.

    Args:
        tls: says whom to trust; see `penstock.gateway.webhooks.connections.tls_context`.
        look_up: gives the addresses of a name.
        chance: a number of 0 to 1, another one each time.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        clock: Clock,
        tls: ssl.SSLContext,
        look_up: Resolve = resolve,
        chance: Chance = random.random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._chance = chance
        self._keys = settings.keys
        self._schedule = settings.schedule
        self._slots = Slots(
            settings.concurrency,
            settings.concurrency_per_host,
            settings.open_max,
            settings.open_per_host_max,
        )
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=settings.concurrency,
            keepalive_expiry=IDLE_S,
            network_backend=CheckedBackend(settings.allow_networks, look_up),
        )

    async def send(self, url: str, event: WebhookEvent, attempt: int = 1) -> DeliveryOutcome:
        """Make one attempt to deliver an event, after the wait for a turn of its host.

        Args:
            url: as the client gave it.
            attempt: 1 for the first; then what `Retry` said.

        Returns:
            what is to be done; nothing that a URL or a receiver does raises.
        """
        try:
            target = read_target(url, self._settings.allow_networks)
        except PenstockError as error:
            return GaveUp(error.message)
        try:
            async with self._slots.turn(target.host):
                return await self._attempt(target, event, attempt)
        except BusyError as error:
            after_s = self._settings.busy_retry_s * (1 + self._chance())
            return Retry(after_s, attempt, str(error))

    async def close(self) -> None:
        """Close the connections that are kept, once no attempt is under way."""
        await self._pool.aclose()

    async def _attempt(self, target: Target, event: WebhookEvent, attempt: int) -> DeliveryOutcome:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._pool.handle_async_request(self._request(target, event))
        except AddressRefusedError as error:
            return GaveUp(str(error))
        except TimeoutError:
            reason = f"no answer within {self._settings.timeout_s:g} s"
        except FAILURES as error:
            reason = _reason(error)
        else:
            await self._finish(response)
            asked = _retry_after(response)
            return self._schedule.after_answer(response.status, asked, attempt, self._chance())
        return self._schedule.after_failure(reason, attempt, self._chance())

    def _request(self, target: Target, event: WebhookEvent) -> httpcore.Request:
        headers = [
            ("host", target.authority),
            ("content-type", "application/json"),
            ("content-length", str(len(event.body))),
            ("user-agent", "penstock"),
            *signed_headers(event, self._keys, int(self._clock.wall())),
        ]
        url = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path
        )
        timeouts = {"connect": self._settings.connect_timeout_s}
        return httpcore.Request(
            "POST", url, headers=headers, content=event.body, extensions={"timeout": timeouts}
        )

    async def _finish(self, response: httpcore.Response) -> None:
        """Read a body to its end if that is near: then its connection can be used again.

        The status is known by now, so whatever happens here changes nothing.
        """
        left = self._settings.answer_bytes_max
        with suppress(*FAILURES):
            try:
                async with asyncio.timeout(self._settings.answer_body_s):
                    async for piece in response.aiter_stream():
                        left -= len(piece)
                        if left < 0:
                            return
            finally:
                await response.aclose()


def _reason(error: Exception) -> str:
    if isinstance(error, httpcore.ProtocolError):
        return "the answer is no HTTP, or breaks off"  # the library's words would quote it
    return f"{type(error).__name__}: {error}"[:REASON_CHARACTERS_MAX]


def _retry_after(response: httpcore.Response) -> str | None:
    asked = (value for name, value in response.headers if name.lower() == b"retry-after")
    return next((value.decode("latin-1") for value in asked), None)

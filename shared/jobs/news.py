"""Hints that jobs changed, for long-polls and streams of events: one connection for all of them.

Messages are hints and may be lost; what they announce is read from the store. So who watches looks
once the subscription is there, and again after every hint and after every reconnection.

A server whose host vanished closes no connection, and silence is usual here. So silence is asked
whether it is one of those.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.cancellation import cancellable
from shared.keys import Keys
from shared.state_store import RECONNECT_DELAY_S, SILENCE_S, SOCKET_TIMEOUT_S


class JobNews:
    """Tells of changes while `run` runs.

    Args:
        redis_url: of the server.
        keys: of the namespace.
        silence_s: see `shared.state_store.SILENCE_S`.
    """

    def __init__(self, redis_url: str, keys: Keys, silence_s: float = SILENCE_S) -> None:
        self._url = redis_url
        self._keys = keys
        self._listeners: dict[str, set[asyncio.Event]] = {}
        self._wanted = asyncio.Event()
        self._silence_s = silence_s
        self._heard = False

    @contextmanager
    def of(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever one should look at the job; who waits clears it first."""
        channel, changed = self._keys.job_changed(job_id), asyncio.Event()
        self._listeners.setdefault(channel, set()).add(changed)
        self._wanted.set()
        try:
            yield changed
        finally:
            self._listeners[channel].discard(changed)
            if not self._listeners[channel]:
                del self._listeners[channel]
            self._wanted.set()

    async def run(self) -> None:
        """Listen until cancelled; outages are waited for."""
        while True:
            with suppress(RedisError, OSError):
                await self._listen()
            await asyncio.sleep(RECONNECT_DELAY_S)

    async def _listen(self) -> None:
        client = Redis.from_url(
            self._url,
            socket_timeout=None,  # nothing may happen for long
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            async with client.pubsub() as pubsub:
                async with asyncio.timeout(SOCKET_TIMEOUT_S):  # a greeting may stay unanswered
                    # It lasts: nobody publishes there.
                    await cancellable(pubsub.subscribe(self._keys.jobs))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._subscribe(pubsub))
                    tasks.create_task(self._hear(pubsub))
                    tasks.create_task(self._question(pubsub))
        except* (RedisError, OSError):
            pass
        finally:
            await client.aclose()

    async def _subscribe(self, pubsub: PubSub) -> None:
        """Keep the subscriptions what the listeners want."""
        have: set[str] = set()
        while True:
            self._wanted.clear()
            want = set(self._listeners)
            if missing := want - have:
                await cancellable(pubsub.subscribe(*missing))
            if unwanted := have - want:
                await cancellable(pubsub.unsubscribe(*unwanted))
            have = want
            await self._wanted.wait()

    async def _hear(self, pubsub: PubSub) -> None:
        async for message in pubsub.listen():
            self._heard = True
            self._tell(message)

    async def _question(self, pubsub: PubSub) -> None:
        """Ask for an answer after silence; raises OSError if none comes."""
        asked = False
        while True:
            self._heard = False
            await asyncio.sleep(self._silence_s)
            if asked and not self._heard:
                raise OSError("no answer to a ping")
            asked = not self._heard
            if asked:
                await cancellable(pubsub.ping())

    def _tell(self, message: dict[str, Any]) -> None:
        """Tell the listeners, also as their subscription begins: they heard nothing until then."""
        if message["type"] in ("message", "subscribe"):
            for changed in self._listeners.get(message["channel"].decode(), ()):
                changed.set()

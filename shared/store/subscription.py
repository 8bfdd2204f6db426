"""Channels of the store's server that are listened to, over outages: one connection for all.

Messages are hints and may be lost; what they announce is read from the store. So who listens is
told to look as each subscription begins, after every hint, and after every reconnection.

A server that hangs, or whose host vanished, closes no connection, and silence is usual here. So
after silence it is asked for an answer, and after as much silence again the connection is given up.
Nothing else waits for it for longer than `SOCKET_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.waits import cancellable
from penstock.shared.store.client import SOCKET_TIMEOUT_S, connect

log = get_logger("subscription")

SILENCE_S = 10.0
"""Silence until the server is asked for an answer, and then until the connection is given up."""

RECONNECT_DELAY_S = 0.5
"""Between attempts to listen again."""


class Subscription:
    """Tells of hints while `run` runs.

    Args:
        redis_url: of the server.
        channel: listened to from the beginning to the end.
        tell: called with a channel whenever something may have happened that it announces.
        silence_s: see `SILENCE_S`.
        reconnect_s: see `RECONNECT_DELAY_S`.
    """

    def __init__(
        self,
        redis_url: str,
        channel: str,
        tell: Callable[[str], None],
        silence_s: float = SILENCE_S,
        reconnect_s: float = RECONNECT_DELAY_S,
    ) -> None:
        self._reconnect_s = reconnect_s
        self._url = redis_url
        self._wanted = {channel}
        self._tell = tell
        self._silence_s = silence_s
        self._changed = asyncio.Event()

    def add(self, channel: str) -> None:
        """Listen to one more channel; it is told once that has begun."""
        self._wanted.add(channel)
        self._changed.set()

    def discard(self, channel: str) -> None:
        """Listen to this channel no more."""
        self._wanted.discard(channel)
        self._changed.set()

    async def run(self) -> None:
        """Listen until cancelled; outages are waited for."""
        while True:
            try:
                # A group of tasks that fails as we are cancelled forgets that we were.
                await cancellable(self._listen())
            except* (RedisError, OSError):
                pass
            except* Exception as errors:
                # The client's own: a connection that ends while channels are added to it leaves
                # the one who writes without a writer (AttributeError).
                log.warning("listening failed, and begins again", reason=repr(errors.exceptions))
            await asyncio.sleep(self._reconnect_s)

    async def _listen(self) -> None:
        """Listen until the connection fails, or the server does not answer."""
        async with connect(self._url) as client, client.pubsub() as pubsub:
            have: set[str] = set()
            async with asyncio.timeout(SOCKET_TIMEOUT_S):  # to connect takes several answers
                await self._update(pubsub, have)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_up(pubsub, have))
                await self._hear(pubsub)

    async def _keep_up(self, pubsub: PubSub, have: set[str]) -> None:
        """Keep the subscriptions what is wanted."""
        while True:
            await self._changed.wait()
            await self._update(pubsub, have)

    async def _update(self, pubsub: PubSub, have: set[str]) -> None:
        self._changed.clear()
        missing, unwanted = self._wanted - have, have - self._wanted
        have |= missing
        have -= unwanted
        if missing:
            await cancellable(pubsub.subscribe(*missing))
        if unwanted:
            await cancellable(pubsub.unsubscribe(*unwanted))

    async def _hear(self, pubsub: PubSub) -> None:
        """Tell of hints, and of their beginning: whatever happened before, nobody heard.

        Raises:
            OSError: if the server does not answer.
        """
        asked = False
        while True:
            # Silence may last longer than an answer: this timeout goes before the socket's.
            message = await cancellable(pubsub.get_message(timeout=self._silence_s))
            if message is not None:
                asked = False
                if message["type"] in ("subscribe", "message"):
                    self._tell(message["channel"].decode())
            elif asked:
                raise OSError("no answer to a ping")
            else:
                await cancellable(pubsub.ping())
                asked = True

"""The clients by which event loops, and threads, talk to the store's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.retry import Retry as BlockingRetry

SOCKET_TIMEOUT_S = 5.0
"""Longest wait for one answer of the store; it holds small documents only, so more is an outage."""

_OPTIONS: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "decode_responses": False,
}


def connect(redis_url: str, connected: Callable[[], None] | None = None) -> Redis:
    """A client of the store that never sends a command twice by itself.

    Args:
        redis_url: `redis://`, `rediss://` or `unix://`.
        connected: called after each new connection, of which the client makes some by itself.
    """

    async def begin(connection: Any) -> None:
        await connection.on_connect()
        if connected is not None:
            connected()

    retry = Retry(NoBackoff(), 0)
    return Redis.from_url(redis_url, retry=retry, redis_connect_func=begin, **_OPTIONS)


def connect_blocking(redis_url: str, connected: Callable[[], None] | None = None) -> redis.Redis:
    """The same for threads; arguments as for `connect`."""

    def begin(connection: Any) -> None:
        connection.on_connect()
        if connected is not None:
            connected()

    retry = BlockingRetry(NoBackoff(), 0)
    return redis.Redis.from_url(redis_url, retry=retry, redis_connect_func=begin, **_OPTIONS)

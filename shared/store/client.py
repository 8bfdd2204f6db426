"""The client by which event loops talk to the store's server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SOCKET_TIMEOUT_S = 5.0
"""Longest wait for one answer of the store; it holds small documents only, so more is an outage."""


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

    return Redis.from_url(
        redis_url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
        redis_connect_func=begin,
    )

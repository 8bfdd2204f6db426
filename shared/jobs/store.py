"""The job store for event loops: many callers, few round trips.

Calls gather while a pipeline is under way and leave together in the next one. So a busy gateway
pays one fsync of the server for many submits: the *group commit* of databases. Where a pipeline has
to wait for the disk, full ones need not wait for each other. Calls that rely on the disk have
connections of their own, since others would wait behind them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.scripts import (
    ANOTHER_SERVER,
    Command,
    ScriptRun,
    Scripts,
    detect,
    waits_for_disk,
)
from penstock.shared.process.waits import cancellable
from penstock.shared.store.client import connect
from penstock.shared.store.keys import Keys
from penstock.shared.store.url import without_password

Answer = TypeVar("Answer")

PIPELINE_CALLS = 128
"""Calls that leave together: to pack them keeps the event loop busy for some 5 ms."""

PIPELINES_MAX = 16
"""Pipelines under way. Each may wait a second for the disk: so 2,000 calls per second get there."""

WAITING_CALLS_MAX = 20_000
"""Calls that wait to leave: some seconds of work for the server. More would only wait longer."""


class JobStore:
    """Carries out `penstock.shared.jobs.calls` on a server.

    Args:
        redis_url: of a server that speaks the Redis 7.0 protocol.
        keys: of the namespace.
        clock_offset_ms: how far the jobs' clock is ahead of the server's; for tests.
    """

    def __init__(self, redis_url: str, keys: Keys, clock_offset_ms: int = 0) -> None:
        self.scripts = Scripts(keys, clock_offset_ms)
        self._quick = _Lane(redis_url, self.scripts)
        self._durable = _Lane(redis_url, self.scripts)

    async def run(self, call: Call[Answer]) -> Answer:
        """The call's answer; where the call asks for it and the server can, once it is on disk.

        Raises:
            StateStoreError: if there is none; the call may have happened, and may be run again.
            PenstockError: what the call itself may raise.
        """
        return await self._lane(call).run(call)

    async def run_many(self, calls: Sequence[Call[Answer]]) -> list[Answer | BaseException]:
        """For each call its answer, or what `run` would have raised."""
        futures = [self._lane(call).enter(call) for call in calls]
        outcomes: list[Answer | BaseException] = await asyncio.gather(
            *futures, return_exceptions=True
        )
        return outcomes

    async def durability(self) -> Durability:
        """What the server's acknowledgements are worth.

        Raises:
            StateStoreError: if it does not answer.
        """
        return await self._durable.durability()

    @property
    def found(self) -> Durability:
        """What they were worth when a connection that calls rely on was last made."""
        return self._durable.found

    async def close(self) -> None:
        """Close connections; calls that are under way fail."""
        await self._quick.close()
        await self._durable.close()

    def _lane(self, call: Call[Any]) -> _Lane:
        return self._durable if call.durable else self._quick


class _Lane:
    """Calls that wait to leave, and the pipelines under way."""

    def __init__(self, redis_url: str, scripts: Scripts) -> None:
        self._url = redis_url
        self._connects = 0
        self._redis: Redis = connect(redis_url, self._connected)
        self._scripts = scripts
        self._waiting: list[tuple[Call[Any], asyncio.Future[Any]]] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._durability: Durability | None = None
        self.found = Durability.UNKNOWN

    def enter(self, call: Call[Any]) -> asyncio.Future[Any]:
        """A future of the call's answer."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= WAITING_CALLS_MAX:
            future.set_exception(StateStoreError("too many calls wait for the job store"))
            return future
        self._waiting.append((call, future))
        wanted = 1 + len(self._waiting) // PIPELINE_CALLS
        if len(self._senders) < min(wanted, PIPELINES_MAX):
            sender = asyncio.create_task(self._send_all())
            self._senders.add(sender)
        return future

    async def run(self, call: Call[Answer]) -> Answer:
        answer: Answer = await self.enter(call)
        return answer

    async def durability(self) -> Durability:
        self.found = self._durability = await self._drive_safely(detect())
        return self.found

    async def close(self) -> None:
        senders = list(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        self._settle(
            self._waiting, [StateStoreError("the job store is closed")] * len(self._waiting)
        )
        await self._redis.aclose()

    async def _send_all(self) -> None:
        """Send until nothing waits; leaves the senders in the same step that finds this."""
        try:
            while self._waiting:
                await self._send_some()
        finally:
            self._senders.discard(asyncio.current_task())

    async def _send_some(self) -> None:
        batch, self._waiting = self._waiting[:PIPELINE_CALLS], self._waiting[PIPELINE_CALLS:]
        outcomes: Sequence[Any] = [StateStoreError("the job store is closed")] * len(batch)
        try:
            outcomes = await self._send([call for call, _ in batch])
        except StateStoreError as error:
            outcomes = [error] * len(batch)
        finally:
            self._settle(batch, outcomes)

    @staticmethod
    def _settle(
        batch: Sequence[tuple[Call[Any], asyncio.Future[Any]]], outcomes: Sequence[Any]
    ) -> None:
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # its caller has gone
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    async def _send(self, calls: Sequence[Call[Any]]) -> Sequence[Any]:
        durability = self._durability or await self.durability()
        connects, wait = self._connects, waits_for_disk(calls, durability)
        try:
            outcomes: Sequence[Any] = await self._drive_safely(
                self._scripts.run(calls, wait_for_disk=wait)
            )
            if self._connects != connects and await self.durability() is not durability:
                raise StateStoreError(ANOTHER_SERVER)
        except StateStoreError:
            self._durability = None  # the next connection may lead to another server
            raise
        return outcomes

    def _connected(self) -> None:
        self._connects += 1

    async def _drive_safely(self, exchange: ScriptRun) -> Any:
        try:
            return await self._drive(exchange)
        except (RedisError, OSError) as error:
            where = without_password(self._url)
            raise StateStoreError(f"job store at {where}: {error}") from error

    async def _drive(self, exchange: ScriptRun) -> Any:
        commands = next(exchange)
        while True:
            answers = await self._pipeline(commands)
            try:
                commands = exchange.send(answers)
            except StopIteration as end:
                return end.value

    async def _pipeline(self, commands: Sequence[Command]) -> Sequence[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await cancellable(pipeline.execute(raise_on_error=False))


async def durability_at(redis_url: str) -> Durability:
    """What the acknowledgements of a server are worth.

    Raises:
        StateStoreError: if it does not answer.
    """
    store = JobStore(redis_url, Keys())
    try:
        return await store.durability()
    finally:
        await store.close()

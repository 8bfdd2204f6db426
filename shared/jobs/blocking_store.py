"""The job store for threads, such as a replica's loop. One thread uses it at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, TypeVar

from redis.client import PubSub
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
from penstock.shared.store.client import SOCKET_TIMEOUT_S, connect_blocking
from penstock.shared.store.keys import Keys
from penstock.shared.store.url import without_password

Answer = TypeVar("Answer")


class BlockingJobStore:
    """Carries out `penstock.shared.jobs.calls` on a server; arguments as for `store.JobStore`."""

    def __init__(self, redis_url: str, keys: Keys, clock_offset_ms: int = 0) -> None:
        self.scripts = Scripts(keys, clock_offset_ms)
        self._url = redis_url
        self._connects = 0
        self._redis = connect_blocking(redis_url, self._connected)
        self._durability: Durability | None = None

    def run(self, call: Call[Answer]) -> Answer:
        """The call's answer; where the call asks for it and the server can, once it is on disk.

        Raises:
            StateStoreError: if there is none; the call may have happened, and may be run again.
            PenstockError: what the call itself may raise.
        """
        outcome = self.run_many([call])[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run_many(self, calls: Sequence[Call[Answer]]) -> list[Answer | Exception]:
        """For each call its answer, or its own error; one round trip for all.

        Raises:
            StateStoreError: if the server does not answer.
        """
        durability = self._durability = self._durability or self.durability()
        connects, wait = self._connects, waits_for_disk(calls, durability)
        outcomes: list[Answer | Exception] = self._drive(self._scripts_run(calls, wait))
        if self._connects != connects:
            self._durability = self.durability()
            if self._durability is not durability:
                raise StateStoreError(ANOTHER_SERVER)
        return outcomes

    def durability(self) -> Durability:
        """What the server's acknowledgements are worth.

        Raises:
            StateStoreError: if it does not answer.
        """
        return self._drive(detect())  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()

    def _connected(self) -> None:
        self._connects += 1

    def _scripts_run(self, calls: Sequence[Call[Any]], wait: bool) -> ScriptRun:
        return self.scripts.run(calls, wait_for_disk=wait)

    def _drive(self, exchange: ScriptRun) -> Any:
        try:
            commands = next(exchange)
            while True:
                commands = exchange.send(self._pipeline(commands))
        except StopIteration as end:
            return end.value
        except (RedisError, OSError) as error:
            self._durability = None  # the next connection may lead to another server
            where = without_password(self._url)
            raise StateStoreError(f"job store at {where}: {error}") from error

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=False)


class BlockingWakeUp:
    """Waits for jobs of one queue on a connection of its own. One thread uses it at a time.

    A server whose host vanished closes no connection, so each silent wait asks for an answer.

    Args:
        redis_url: of the server.
        channel: of the queue.
        answer_s: how long the server may take to answer.
    """

    def __init__(self, redis_url: str, channel: str, answer_s: float = SOCKET_TIMEOUT_S) -> None:
        self._url = redis_url
        self._channel = channel
        self._answer_s = answer_s
        self._pubsub: PubSub | None = None
        self._asked_at: float | None = None

    def wait(self, timeout_s: float) -> bool:
        """Wait for a hint that there is something to lease; True also where one may be lost.

        Without a server this sleeps for `timeout_s` and returns False.
        """
        until = time.monotonic() + timeout_s
        try:
            if self._pubsub is None:
                self._subscribe()
                return True  # what came before was not heard
            return self._hear(until)
        except (RedisError, OSError):
            self.close()
            time.sleep(max(0.0, until - time.monotonic()))
            return False

    def close(self) -> None:
        """Close the connection."""
        if self._pubsub is not None:
            self._pubsub.close()
            self._pubsub = None
            self._asked_at = None

    def _subscribe(self) -> None:
        pubsub: PubSub = connect_blocking(self._url).pubsub()  # type: ignore[no-untyped-call]
        self._pubsub = pubsub
        pubsub.subscribe(self._channel)
        if pubsub.get_message(timeout=SOCKET_TIMEOUT_S) is None:
            raise OSError("no answer to a subscription")

    def _hear(self, until: float) -> bool:
        """Wait for one hint, and take all others that are there with it."""
        assert self._pubsub is not None
        heard = False
        while True:
            timeout_s = 0.0 if heard else max(0.0, until - time.monotonic())
            message = self._pubsub.get_message(timeout=timeout_s)
            if message is None:
                break
            self._asked_at = None
            heard = heard or message["type"] == "message"
        if not heard:
            self._question()
        return heard

    def _question(self) -> None:
        """Ask for an answer; raises OSError if the one that was asked for is overdue."""
        assert self._pubsub is not None
        if self._asked_at is None:
            self._pubsub.ping()
            self._asked_at = time.monotonic()
        elif time.monotonic() - self._asked_at > self._answer_s:
            raise OSError("no answer to a ping")

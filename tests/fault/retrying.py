"""Clients in a hurry: an open loop with a deadline for each call, and retries of what is refused.

The generator of `load_tests` sends each request once. Overload is worse with clients that ask again
when they are refused, so these do: at most so often, after a wait with full jitter, and saying
each time what is left of their deadline. They do not heed Retry-After, which is longer than that.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from load_tests.generator.arrivals import poisson_arrivals
from load_tests.generator.http_wire import Response, ResponseReader
from load_tests.report.percentiles import percentile
from tests.fault.served import number_request

DEADLINE_S = 0.5
RETRIES = 2
BACKOFF_S = 0.05
"""Longest wait before the first retry; twice that before the second."""

LEFT_S_MIN = 0.05
"""With less than this left, a retry could not be answered in time, and is not made."""

PATIENCE_S = 1.0
"""How much longer than its deadline a client listens, to tell a late answer from none."""

CONNECTIONS_MAX = 512
OK = 200
EXPIRED = 504
NO_ANSWER = 0


@dataclass
class Asked:
    """One call of a client; times are of the monotonic clock.

    Attributes:
        intended: when it was to be sent first.
        lag_s: how much later the first attempt was sent.
        statuses: of its attempts, in order; 0: none came, or the connection broke.
        ended: when its last attempt was answered.
    """

    intended: float
    lag_s: float = 0.0
    statuses: list[int] = field(default_factory=list)
    ended: float = 0.0

    @property
    def took_s(self) -> float:
        """From its intended time to its last answer."""
        return self.ended - self.intended

    @property
    def is_good(self) -> bool:
        """Whether it was answered by its deadline."""
        return self.statuses[-1:] == [OK] and self.took_s <= DEADLINE_S


class HurriedClients:
    """Many clients of one model.

    Args:
        seed: of the times at which they call, and of their waits.
    """

    def __init__(self, port: int, model: str, seed: int) -> None:
        self._port = port
        self._model = model
        self._seed = seed
        self._rng = random.Random(seed)
        self._free: deque[_Connection] = deque()
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def call(self, rate_rps: float, duration_s: float) -> list[Asked]:
        """Call at a rate for so long; returns once all are answered or given up."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            asked: list[Asked] = []
            for offset in poisson_arrivals(rate_rps, duration_s, self._seed).tolist():
                await asyncio.sleep(max(began + offset - time.monotonic(), 0.0))
                asked.append(Asked(began + offset))
                calls.create_task(self._call(asked[-1]))
        self._seed += 1
        return asked

    def close(self) -> None:
        """Close all connections."""
        while self._free:
            self._free.pop().close()

    async def _call(self, asked: Asked) -> None:
        asked.lag_s = time.monotonic() - asked.intended
        for retry in range(RETRIES + 1):
            left_s = asked.intended + DEADLINE_S - time.monotonic()
            if retry and left_s < LEFT_S_MIN:
                return
            status = await self._attempt(left_s)
            asked.statuses.append(status)
            asked.ended = time.monotonic()
            if status in (OK, EXPIRED, NO_ANSWER):
                return
            await asyncio.sleep(self._rng.uniform(0.0, BACKOFF_S * 2**retry))

    async def _attempt(self, left_s: float) -> int:
        request = number_request(self._model, 1.0, max(left_s, 0.001))
        async with self._slots:
            try:
                connection = self._idle() or await self._connect()
                async with asyncio.timeout(left_s + PATIENCE_S):
                    response = await connection.ask(request)
            except (OSError, TimeoutError):
                return NO_ANSWER
            if response.closes:
                connection.close()
            else:
                self._free.append(connection)
            return response.status

    def _idle(self) -> _Connection | None:
        """A connection that is open still: the server closes those that nobody used for a while."""
        while self._free:
            connection = self._free.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self) -> None:
        self._reader = ResponseReader()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Response] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was made and not lost since."""
        return self._transport is not None

    async def ask(self, request: bytes) -> Response:
        """Send a request and wait for its answer.

        Raises:
            OSError: if the connection is lost, before or under the request.
        """
        if self._transport is None:
            raise ConnectionResetError
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close it, whatever is open on it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        response = self._reader.feed(data)
        if response is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())


def goodput_rps(asked: Sequence[Asked], first: float, last: float) -> float:
    """Answers in time, per second, of all that ended from one time to another."""
    return sum(one.is_good and first <= one.ended < last for one in asked) / (last - first)


def p99_s(asked: Sequence[Asked]) -> float:
    """Of calls that were answered in time or not; those that were refused are left out."""
    return percentile(np.array([one.took_s for one in asked if one.statuses[-1] == OK]), 99)

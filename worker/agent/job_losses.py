"""Tells the job store which replicas were seen to die: their jobs run elsewhere at once.

Without it they would, too, but only when their leases have ended, and nobody would know which jobs
a replica died with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.process.telemetry import get_logger

LOSSES_MAX = 200
"""Deaths that wait for a store that is away; of more, the oldest are left to their leases' ends.
Each may hold the ids of some thousand jobs."""

RETRY_S = 1.0
"""How long until a store that did not answer is told again."""

Begun: TypeAlias = Collection[str] | None

log = get_logger("agent")


class Losses:
    """Reports deaths, in order, until the store has answered.

    Args:
        lose: tells the store of one holder, and of the jobs that it had begun (None: not known);
            raises `StateStoreError` if it does not answer, and may be repeated. It gives how many
            jobs that one held.
    """

    def __init__(self, lose: Callable[[str, Begun], Awaitable[int]]) -> None:
        self._lose = lose
        self._waiting: deque[tuple[str, Begun]] = deque(maxlen=LOSSES_MAX)
        self._news = asyncio.Event()

    def add(self, replica: ReplicaId, begun: Begun) -> None:
        """A replica died, with these jobs or any that it held."""
        self._waiting.append((replica, begun))
        self._news.set()

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                loss = replica, begun = self._waiting[0]
                try:
                    jobs = await self._lose(replica, begun)
                except StateStoreError:
                    await asyncio.sleep(RETRY_S)
                    continue
                if self._waiting and self._waiting[0] is loss:
                    self._waiting.popleft()
                if jobs:
                    log.warning("a replica died with jobs", replica=replica, jobs=jobs)

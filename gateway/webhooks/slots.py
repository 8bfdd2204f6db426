"""Turns: a bounded number of deliveries at a time, in all and to each host.

So one host that hangs does not keep the others waiting. How many may wait is bounded, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


class BusyError(Exception):
    """So many deliveries wait already that this one must come again later."""


@dataclass
class _Host:
    """Its turns, and how many deliveries run or wait for one."""

    turns: asyncio.Semaphore
    inside: int = 0


class Slots:
    """Turns for deliveries.

    Args:
        total, per_host: most deliveries at a time.
        open_total, open_per_host: most of those that run or wait.
    """

    def __init__(self, total: int, per_host: int, open_total: int, open_per_host: int) -> None:
        self._total = asyncio.Semaphore(total)
        self._per_host = per_host
        self._open_total = open_total
        self._open_per_host = open_per_host
        self._hosts: dict[str, _Host] = {}
        self._open = 0

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Wait for a turn of a host, and hold it.

        Raises:
            BusyError: if too many wait.
        """
        host = self._hosts.get(name) or _Host(asyncio.Semaphore(self._per_host))
        if self._open >= self._open_total or host.inside >= self._open_per_host:
            raise BusyError(f"{self._open} deliveries are open, {host.inside} of them to {name}")
        self._hosts[name] = host
        self._open += 1
        host.inside += 1
        try:
            # The host's first: who waits for a slow host holds no turn that others could use.
            async with host.turns, self._total:
                yield
        finally:
            self._open -= 1
            host.inside -= 1
            if not host.inside:
                del self._hosts[name]

    def __repr__(self) -> str:
        return f"Slots({self._open} open, {len(self._hosts)} hosts)"

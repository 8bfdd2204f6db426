"""Hints that jobs changed, for long-polls and streams of events: one connection for all of them.

They may be lost, as `penstock.shared.store.subscription` says: who watches looks whenever it is
told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.shared.store.keys import Keys
from penstock.shared.store.subscription import SILENCE_S, Subscription


class JobNews:
    """Tells of changes while `run` runs.

    Args:
        redis_url: of the server.
        keys: of the namespace.
        silence_s: see `penstock.shared.store.subscription.SILENCE_S`.
    """

    def __init__(self, redis_url: str, keys: Keys, silence_s: float = SILENCE_S) -> None:
        self._keys = keys
        self._listeners: dict[str, set[asyncio.Event]] = {}
        # It listens to one channel always; nobody publishes there.
        self._subscription = Subscription(redis_url, keys.jobs, self._tell, silence_s)

    @contextmanager
    def of(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever one should look at the job; who waits clears it first."""
        channel, changed = self._keys.job_changed(job_id), asyncio.Event()
        self._listeners.setdefault(channel, set()).add(changed)
        self._subscription.add(channel)
        try:
            yield changed
        finally:
            self._listeners[channel].discard(changed)
            if not self._listeners[channel]:
                del self._listeners[channel]
                self._subscription.discard(channel)

    async def run(self) -> None:
        """Listen until cancelled; outages are waited for."""
        await self._subscription.run()

    def _tell(self, channel: str) -> None:
        """Tell the listeners, also as their subscription begins: they heard nothing until then."""
        for changed in self._listeners.get(channel, ()):
            changed.set()

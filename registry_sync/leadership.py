"""The leader lease, kept by a task of its own, so that nothing that blocks elsewhere can lose it.

A lease counts only until it would have expired as this process measures it: a leader that cannot
reach the store steps down before a standby may step up. Beyond that, every write carries the
lease's token, and the store refuses a token that is not the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from shared.clock import Clock
from shared.errors import StateStoreError
from shared.state_store import Lease, StateStore
from shared.telemetry import get_logger

RENEWALS_PER_TTL = 3
"""So that two renewals may fail before the lease is lost."""

RELEASE_TIMEOUT_S = 2.0
"""At the end, a store that does not answer is not waited for any longer."""


class Leadership:
    """Holds, renews and loses the lease.

    Args:
        holder: this process's incarnation.
        on_change: called when leadership was won or lost.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Clock,
        holder: str,
        ttl_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl_s = ttl_s
        self._on_change = on_change
        self._lease: Lease | None = None
        self._until = 0.0
        self._log = get_logger("leadership")

    @property
    def lease(self) -> Lease | None:
        """The lease, if it is held at this moment."""
        return self._lease if self._clock.monotonic() < self._until else None

    def lost(self) -> None:
        """Somebody found out that the lease is not the current one any more."""
        self._set(None)

    async def run(self) -> None:
        """Try to be leader until cancelled; then give leadership up at once."""
        try:
            while True:
                await self._renew()
                await asyncio.sleep(self._ttl_s / RENEWALS_PER_TTL)
        finally:
            await self._release()

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            lease = await self._store.acquire_lease(self._holder, self._ttl_s)
        except StateStoreError:
            if self.lease is None:
                self._set(None)
            return
        # The store counts from when it answered, so this is never too long.
        self._until = asked_at + self._ttl_s
        self._set(lease)

    def _set(self, lease: Lease | None) -> None:
        if lease == self._lease:
            return
        self._lease = lease
        self._log.info("leading" if lease else "not leading", token=lease.token if lease else None)
        self._on_change()

    async def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await self._store.release_lease(lease)
        except (StateStoreError, TimeoutError):
            self._log.warning("lease not released; it expires by itself", token=lease.token)

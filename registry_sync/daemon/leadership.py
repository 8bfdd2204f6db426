"""The leader lease, kept by a task of its own, so that nothing that blocks elsewhere can lose it.

A lease counts only until it would have expired as this process measures it: a leader that cannot
reach the store steps down before a standby may step up. Beyond that, every write carries the
lease's token, and the store refuses a token that is not the newest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.registry_sync.daemon.troubles import Troubles
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.process.clock import Clock
from penstock.shared.process.telemetry import get_logger
from penstock.shared.store.state import Lease, StateStore

RENEWALS_PER_TTL = 4
"""Three are asked for before a lease that was granted ends: two may fail, however they do."""

RELEASE_TIMEOUT_S = 2.0
"""At the end, a store that does not answer is not waited for any longer."""


class Leadership:
    """Holds, renews and loses the lease.

    Args:
        holder: this process's incarnation.
        on_change: called when leadership was won or lost; also where it was lost for a moment only,
            since nothing is known of what happened meanwhile.
        troubles: where a store that does not answer is told.
    """

    def __init__(
        self,
        store: StateStore,
        clock: Clock,
        holder: str,
        ttl_s: float,
        on_change: Callable[[], None],
        troubles: Troubles,
    ) -> None:
        self._store = store
        self._clock = clock
        self._holder = holder
        self._ttl_s = ttl_s
        self._on_change = on_change
        self._troubles = troubles
        self._asked_at = 0.0
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
            async with asyncio.TaskGroup() as renewals:
                while True:
                    # None waits for the one before: a connection that hangs must not lose the
                    # lease, nor a store whose answers come late but in time.
                    renewals.create_task(self._renew())
                    await asyncio.sleep(self._ttl_s / RENEWALS_PER_TTL)
                    self._notice_end()
        finally:
            await self._release()

    async def _renew(self) -> None:
        asked_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._ttl_s):  # a later answer would be of no use
                lease = await self._store.acquire_lease(self._holder, self._ttl_s)
        except StateStoreError as error:
            self._failed(error.message)
        except TimeoutError:
            self._failed(f"timed out after {self._ttl_s:g} s (state store)")
        except Exception as error:  # the next one may succeed
            self._troubles.fault("lease", error)
        else:
            self._troubles.over("lease")
            self._answered(lease, asked_at)

    def _failed(self, message: str) -> None:
        self._notice_end()
        if self.lease is None:  # else it costs nothing: others are asked for in time
            self._troubles.tell("lease", message)

    def _answered(self, lease: Lease | None, asked_at: float) -> None:
        self._notice_end()
        # The store counts from when it answered, so this is never too long.
        until = asked_at + self._ttl_s
        if asked_at < self._asked_at or until <= self._clock.monotonic():
            return  # a newer one was answered before, or it is over already
        self._asked_at, self._until = asked_at, until
        self._set(lease)

    def _notice_end(self) -> None:
        """A lease ends by time alone, and may come back with the same token."""
        if self._lease is not None and self.lease is None:
            self._set(None)

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
        except Exception:  # whatever the reason, the lease is as good as released
            self._log.warning("lease not released; it expires by itself", token=lease.token)

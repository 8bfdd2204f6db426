"""Reads the registry while this daemon leads, and writes statuses to it.

Nothing in here may stop it: each call has a limit of time (see `source_calls`), and no wait is for
an event alone. Statuses wait for the next look at the registry, not the other way round.
"""

from __future__ import annotations

import random
from asyncio import Event
from collections.abc import Callable

from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.source_calls import SourceCalls
from penstock.registry_sync.daemon.status_queue import StatusQueue
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.plan.ownership import Ownership
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.types import (
    NoModelsError,
    Registry,
    RegistryError,
    StatusUpdate,
    VersionKey,
    with_status,
)
from penstock.shared.process.clock import Clock
from penstock.shared.process.waits import set_within
from penstock.shared.store.state import Lease

POLL_JITTER = 0.1
"""Share of the poll interval by which polls vary, so that daemons do not poll in step."""

OUR_TAGS = "tags of this system"

OWNERS_LENGTH_MAX = 200
"""Most of what is told of who writes them too."""

SLOW_S = 1.0
"""A status write that fails after longer than this means an outage: the others are not tried."""


class RegistryFollower:
    """What was seen of the registry, and the loop that looks and writes.

    Args:
        ownership: whose statuses stand in the registry.
        lease: the lease, if it is held at this moment.
        on_seen: called when the registry was read.

    Attributes:
        observed: the registry as last seen, or None if it was not seen since we lead.
        emptied: at the last look that came to an answer, it had no model at all.
    """

    def __init__(
        self,
        calls: SourceCalls,
        settings: SyncSettings,
        clock: Clock,
        counts: SyncCounts,
        troubles: Troubles,
        ownership: Ownership,
        lease: Callable[[], Lease | None],
        on_seen: Callable[[], None],
    ) -> None:
        self.observed: Registry | None = None
        self.emptied = False
        self._calls = calls
        self._poll_interval_s = settings.poll_interval_s
        self._clock = clock
        self._counts = counts
        self._troubles = troubles
        self._ownership = ownership
        self._lease = lease
        self._on_seen = on_seen
        self._wake = Event()
        self._deployed: frozenset[VersionKey] | None = None
        self._statuses = StatusQueue(settings.poll_interval_s)
        self._next_poll = 0.0
        self._looked_at = clock.monotonic()

    @property
    def age_s(self) -> float:
        """Seconds since the registry was last read completely, or since we began."""
        return self._clock.monotonic() - self._looked_at

    def forget(self) -> None:
        """Leadership was won or lost: what was seen counts no more, and is looked at anew."""
        self.observed = None
        self.emptied = False
        self._deployed = None
        self._statuses.clear()
        self._next_poll = 0.0
        self._wake.set()

    def planned(self, deployed: frozenset[VersionKey], statuses: tuple[StatusUpdate, ...]) -> None:
        """A plan was made and written: what is deployed, and what is to be told of it."""
        if self._statuses.replace(statuses) or self._deployed is None:
            self._wake.set()
        self._deployed = deployed

    async def run(self) -> None:
        """Poll while leading; write statuses as soon as there are any."""
        while True:
            self._wake.clear()
            deployed = self._deployed
            if self._lease() is None or deployed is None:
                await set_within(self._wake, self._poll_interval_s)
                continue
            await self._write_statuses()
            if self._clock.monotonic() >= self._next_poll:
                await self._look(deployed)
            await set_within(self._wake, self._next_poll - self._clock.monotonic())

    async def _look(self, known: frozenset[VersionKey]) -> None:
        lease = self._lease()
        self._counts.polls += 1
        try:
            observed = await self._calls.look(known)
        except RegistryError as error:
            self._counts.poll_failures += 1
            self._troubles.tell("registry", error.message)
            if isinstance(error, NoModelsError) and lease is not None and lease == self._lease():
                self.emptied = True
                self._on_seen()
        else:
            self._seen(observed, lease)
        jitter = random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)
        self._next_poll = self._clock.monotonic() + self._poll_interval_s * jitter

    def _seen(self, observed: Registry, lease: Lease | None) -> None:
        self._looked_at = self._clock.monotonic()
        if self._troubles.over("registry"):
            self._statuses.forgive()
        if lease is not None and lease == self._lease():
            self.observed = observed
            self.emptied = False
            self._see_owners(observed)
            self._on_seen()

    def _see_owners(self, observed: Registry) -> None:
        self._ownership.see(observed, self._clock.monotonic())
        others = self._ownership.others
        if others:
            self._troubles.tell(
                OUR_TAGS,
                f"another system writes them too, as {', '.join(others)[:OWNERS_LENGTH_MAX]}: "
                "give each a --tag-prefix of its own, or other models by --include and --exclude; "
                f"this one is {self._ownership.owner}",
            )
        else:
            self._troubles.over(OUR_TAGS)

    async def _write_statuses(self) -> None:
        """Write what is due, until the registry is to be looked at again."""
        began_at = self._clock.monotonic()
        while (update := self._statuses.next(began_at)) is not None:
            written = await self._write(update)
            now = self._clock.monotonic()
            outage = not written and now - began_at > SLOW_S
            if outage or now >= self._next_poll or self._lease() is None:
                return
            began_at = now

    async def _write(self, update: StatusUpdate) -> bool:
        """Write one status; says whether it was written."""
        about = f"status of {update.model}/{update.version}"
        try:
            await self._calls.write_status(update)
        except RegistryError as error:
            self._counts.status_write_failures += 1
            self._statuses.refused(update, self._clock.monotonic())
            self._troubles.tell(about, error.message)
            return False
        self._counts.status_writes += 1
        self._statuses.written(update)
        self._ownership.written(update)
        self._troubles.over(about)
        if self.observed is not None:
            self.observed = with_status(self.observed, update)
        return True

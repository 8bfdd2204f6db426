"""The daemon's loops: observe, plan, apply; wait for a change; again.

Four tasks, each the owner of what it talks to:
- leadership renews the lease (see `leadership`);
- the store's watcher turns announced changes into a wake-up;
- the registry's follower polls the registry and writes statuses, in a thread;
- the reconciler reads the store, plans, and writes the plan back if it differs.

None waits for another: while MLflow hangs, rollouts of what is known go on; while the store is
down, nothing is decided, and for a while after that the absence of a report means nothing.

Previous stop: `__main__`. Next: `reconcile.plan`, where every decision is made.
"""

from __future__ import annotations

import asyncio
import random
import re
from contextlib import suppress

from registry_sync.fetches import Artifacts, Fetches
from registry_sync.leadership import Leadership
from registry_sync.metrics import SyncCounts
from registry_sync.reconcile import plan
from registry_sync.registry import (
    Registry,
    RegistryError,
    RegistrySource,
    StatusUpdate,
    VersionKey,
    with_status,
)
from registry_sync.settings import SyncSettings
from registry_sync.world import Plan, World
from shared.blocking import in_thread
from shared.clock import Clock
from shared.deployment import ArtifactManifest, Deployment
from shared.errors import LeaseLostError, StateStoreError
from shared.routing import RoutingTable
from shared.state_store import Lease, StateStore
from shared.telemetry import get_logger

DEBOUNCE_S = 0.03
"""Changes come in flocks (each replica of a worker, each gateway); one plan answers them all."""

POLL_JITTER = 0.1
"""Share of the poll interval by which polls vary, so that daemons do not poll in step."""

SLOW_S = 1.0
"""A status write that fails after longer than this means an outage: the others are not tried."""

_ADDRESS = re.compile("0x[0-9a-f]+")
"""Where an object lies in memory, which differs each time that a client names it in an error."""


class Controller:
    """One daemon; active while it holds the lease.

    Args:
        holder: this process's incarnation.
    """

    def __init__(
        self,
        settings: SyncSettings,
        store: StateStore,
        source: RegistrySource,
        artifacts: Artifacts,
        clock: Clock,
        holder: str,
    ) -> None:
        self.counts = SyncCounts()
        self._settings = settings
        self._policy = settings.policy()
        self._store = store
        self._source = source
        self._artifacts = artifacts
        self._clock = clock
        self._wake = asyncio.Event()
        self._registry_wake = asyncio.Event()
        self._leadership = Leadership(
            store, clock, holder, settings.lease_ttl_s, self._leadership_changed
        )
        self._fetches = Fetches(
            artifacts,
            self._policy,
            clock,
            settings.parallel_downloads,
            self._wake.set,
            self.counts,
        )
        self._observed: Registry | None = None
        self._deployed: frozenset[VersionKey] | None = None
        self._statuses: tuple[StatusUpdate, ...] = ()
        self._told: tuple[StatusUpdate, ...] = ()
        self._settled_at = 0.0
        self._complaints: dict[str, str] = {}
        self._log = get_logger("controller")

    @property
    def leading(self) -> bool:
        """Whether this daemon holds the lease."""
        return self._leadership.lease is not None

    @property
    def told(self) -> tuple[StatusUpdate, ...]:
        """Statuses of all versions; none unless this daemon leads, and has seen the registry."""
        return self._told if self.leading else ()

    async def run(self) -> None:
        """Run until cancelled; the lease is released at the end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._leadership.run())
                tasks.create_task(self._store.watch(self._wake.set))
                tasks.create_task(self._reconcile_forever())
                tasks.create_task(self._follow_registry())
        finally:
            await self._fetches.close()

    def _leadership_changed(self) -> None:
        """A new leader knows nothing, and reports may be missing: the store may have been down."""
        self._observed = None
        self._deployed = None
        self._statuses = self._told = ()
        self._settle()
        self._wake.set()
        self._registry_wake.set()

    def _settle(self) -> None:
        self._settled_at = self._clock.monotonic() + self._settings.report_ttl_s

    # The reconciler

    async def _reconcile_forever(self) -> None:
        while True:
            await _wait(self._wake, self._settings.state_poll_s)
            await asyncio.sleep(DEBOUNCE_S)
            self._wake.clear()
            lease = self._leadership.lease
            if lease is None:
                continue
            try:
                await self._reconcile(lease)
                self._content("store")
            except LeaseLostError:
                self._leadership.lost()
            except StateStoreError as error:
                self.counts.store_failures += 1
                self._settle()
                self._complain("store", error.message)

    async def _reconcile(self, lease: Lease) -> None:
        world = World(
            observed=self._observed,
            deployment=await self._store.deployment(),
            routing=await self._store.routing(),
            workers=await self._store.workers(),
            gateways=await self._store.gateways(),
            now=self._clock.wall(),
            prepared=self._fetches.prepared,
            settling=self._clock.monotonic() < self._settled_at,
            trials=await self._store.trials(),
        )
        started = self._clock.monotonic()
        result = plan(world, self._policy)
        self.counts.planned(result.deployment, self._clock.monotonic() - started)
        if (result.deployment, result.routing) != (world.deployment, world.routing):
            await self._store.apply(lease, result.deployment, result.routing)
            self._log_changes(world.deployment, world.routing, result)
        self._after(result)

    def _after(self, result: Plan) -> None:
        """Pass on what else follows from a plan."""
        revisions = result.deployment.revisions.values()
        deployed = frozenset((each.model, each.version) for each in revisions)
        if self._deployed is None or result.statuses != self._statuses:
            self._registry_wake.set()
        self._deployed = deployed
        self._statuses = result.statuses
        self._told = result.told
        self._fetches.want(result.fetches, result.sources)
        found = self._fetches.prepared.values()
        digests = {each.digest for each in found if isinstance(each, ArtifactManifest)}
        self._artifacts.keep_only(frozenset(digests | {each.manifest.digest for each in revisions}))

    def _log_changes(self, deployment: Deployment, routing: RoutingTable, result: Plan) -> None:
        for name, revision in result.deployment.revisions.items():
            before = deployment.revisions.get(name)
            if before is None or before.phase is not revision.phase:
                message = revision.message
                self._log.info(
                    "revision", revision=name, phase=revision.phase.value, message=message
                )
        for name in deployment.revisions.keys() - result.deployment.revisions.keys():
            self._log.info("revision removed", revision=name)
        for model, route in result.routing.models.items():
            if route != routing.models.get(model):
                versions = [each.version for each in route.versions]
                self._log.info(
                    "route",
                    model=model,
                    versions=versions,
                    reason=route.reason,
                    generation=route.generation,
                )

    # The registry's follower

    async def _follow_registry(self) -> None:
        """Poll while leading; write statuses as soon as there are any."""
        next_poll = self._clock.monotonic()
        while True:
            self._registry_wake.clear()
            if self._leadership.lease is None or self._deployed is None:
                await self._registry_wake.wait()
                next_poll = self._clock.monotonic()
                continue
            await self._write_statuses()
            if self._clock.monotonic() >= next_poll:
                await self._observe(self._deployed)
                jitter = random.uniform(1 - POLL_JITTER, 1 + POLL_JITTER)
                next_poll = self._clock.monotonic() + self._settings.poll_interval_s * jitter
            await _wait(self._registry_wake, next_poll - self._clock.monotonic())

    async def _observe(self, known: frozenset[VersionKey]) -> None:
        lease = self._leadership.lease
        self.counts.polls += 1
        try:
            observed = await in_thread(lambda: self._source.observe(known))
        except RegistryError as error:
            self.counts.poll_failures += 1
            self._complain("registry", error.message)
            return
        self._content("registry")
        if lease is not None and lease == self._leadership.lease:
            self._observed = observed
            self._wake.set()

    async def _write_statuses(self) -> None:
        """Write what differs; what fails is tried again after the next poll."""
        statuses, self._statuses = self._statuses, ()
        for update in statuses:
            if self._leadership.lease is None:
                return
            started = self._clock.monotonic()
            try:
                await in_thread(lambda update=update: self._source.write_status(update))  # type: ignore[misc]
            except RegistryError as error:
                self.counts.status_write_failures += 1
                self._complain(f"status of {update.model}/{update.version}", error.message)
                if self._clock.monotonic() - started > SLOW_S:
                    return
                continue
            self.counts.status_writes += 1
            self._content(f"status of {update.model}/{update.version}")
            if self._observed is not None:
                self._observed = with_status(self._observed, update)

    def _complain(self, about: str, message: str) -> None:
        """Say once what is wrong, not at every try; and again when it is something else."""
        gist = _ADDRESS.sub("", message)
        if self._complaints.get(about) != gist:
            self._log.error("unavailable", what=about, error=message)
        self._complaints[about] = gist

    def _content(self, about: str) -> None:
        if self._complaints.pop(about, None) is not None:
            self._log.info("available again", what=about)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait until the event is set, or for so long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()

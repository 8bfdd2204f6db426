"""The daemon's loops: observe, plan, apply; wait for a change; again.

Four tasks, each the owner of what it talks to:
- leadership renews the lease (see `leadership`);
- the store's watcher turns announced changes into a wake-up;
- the registry's follower polls the registry and writes statuses, in threads (see `follower`);
- the reconciler reads the store, plans, and writes the plan back if it differs.

None waits for another: while MLflow hangs, rollouts of what is known go on; while the store is
down, nothing is decided, and for a while after that the absence of a report means nothing. Each
goes on, whatever happens in it (see `supervision`), and none waits for anything without a limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.registry_sync.daemon.fetches import Fetches, ManifestSource
from penstock.registry_sync.daemon.follower import OUR_TAGS, RegistryFollower
from penstock.registry_sync.daemon.leadership import Leadership
from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.source_calls import InThread, SourceCalls
from penstock.registry_sync.daemon.supervision import keep_running
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.plan.ownership import Ownership
from penstock.registry_sync.plan.reconcile import plan
from penstock.registry_sync.plan.statuses import status_of_phase
from penstock.registry_sync.plan.world import Plan, World
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.types import RegistrySource, Status, StatusUpdate
from penstock.shared.contracts.deployment import ArtifactManifest, Deployment
from penstock.shared.contracts.errors import LeaseLostError, StateStoreError
from penstock.shared.contracts.ids import node_name
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.process.blocking import in_thread
from penstock.shared.process.clock import Clock, SteadyClock
from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.waits import set_within
from penstock.shared.store.state import Lease, StateStore

DEBOUNCE_S = 0.03
"""Changes come in flocks (each replica of a worker, each gateway); one plan answers them all."""

STORE_TIMEOUT_S = 50.0
"""Longest that reading all of the store, or writing a plan, may take. That is ten answers, each
of which the store's client waits for no longer than 5 s."""

REPORTED = ("registry", "store", OUR_TAGS)
"""Troubles that a report has: those that are told to be over, once they are."""

TROUBLED = frozenset({Status.FAILED, Status.INVALID})
"""Statuses that are logged as warnings."""


class Controller:
    """One daemon; active while it holds the lease.

    Args:
        make_source: makes what reads the registry; again whenever a call of that hangs.
        holder: this process's incarnation.
        run_in_thread: how calls that block are made.
    """

    def __init__(
        self,
        settings: SyncSettings,
        store: StateStore,
        make_source: Callable[[], RegistrySource],
        artifacts: ManifestSource,
        clock: Clock,
        holder: str,
        run_in_thread: InThread = in_thread,
    ) -> None:
        self.counts = SyncCounts()
        self.troubles = Troubles(self.counts)
        self._settings = settings
        self._policy = settings.policy()
        self._store = store
        self._artifacts = artifacts
        # What is to be tried again in ten seconds is, though somebody sets the clock back a year.
        self._clock = SteadyClock(clock)
        self._wake = asyncio.Event()
        self._leadership = Leadership(
            store=store,
            clock=clock,
            holder=holder,
            ttl_s=settings.lease_ttl_s,
            on_change=self._leadership_changed,
            troubles=self.troubles,
        )
        self._fetches = Fetches(
            artifacts=artifacts,
            policy=self._policy,
            clock=self._clock,
            parallel=settings.parallel_downloads,
            timeout_s=settings.download_timeout_s,
            on_change=self._wake.set,
            counts=self.counts,
            troubles=self.troubles,
        )
        self._calls = SourceCalls(
            make_source, settings.registry_timeout_s, clock, self.troubles, run_in_thread
        )
        self._ownership = Ownership()
        self._follower = RegistryFollower(
            calls=self._calls,
            settings=settings,
            clock=clock,
            counts=self.counts,
            troubles=self.troubles,
            ownership=self._ownership,
            lease=lambda: self._leadership.lease,
            on_seen=self._wake.set,
        )
        self._told: tuple[StatusUpdate, ...] = ()
        self._settled_at = 0.0
        self._log = get_logger("controller")

    @property
    def leading(self) -> bool:
        """Whether this daemon holds the lease."""
        return self._leadership.lease is not None

    @property
    def told(self) -> tuple[StatusUpdate, ...]:
        """Statuses of all versions; none unless this daemon leads, and has seen the registry."""
        return self._told if self.leading else ()

    @property
    def gone_versions(self) -> int:
        """Versions that serve though the registry has them no more; 0 where others lead."""
        return sum(each.gone for each in self.told)

    @property
    def lasting_troubles(self) -> tuple[str, ...]:
        """What does not work, beyond single versions; nothing where others lead."""
        return self.troubles.present(REPORTED) if self.leading else ()

    @property
    def contested_versions(self) -> int:
        """Versions whose tags another system writes too; 0 where others lead."""
        return self._ownership.contested if self.leading else 0

    @property
    def registry_age_s(self) -> float:
        """Seconds since the registry was last read completely; 0 where others lead."""
        return self._follower.age_s if self.leading else 0.0

    @property
    def hanging_calls(self) -> int:
        """Calls of the registry that were given up and have not ended."""
        return self._calls.hanging

    async def run(self) -> None:
        """Run until cancelled; the lease is released at the end."""
        loops = {
            "leadership": self._leadership.run,
            "watch": lambda: self._store.watch(self._wake.set),
            "reconciler": self._reconcile_forever,
            "follower": self._follower.run,
        }
        try:
            async with asyncio.TaskGroup() as tasks:
                for name, loop in loops.items():
                    tasks.create_task(keep_running(name, loop, self.troubles))
        finally:
            await self._fetches.close()

    def _leadership_changed(self) -> None:
        """A new leader knows nothing, and reports may be missing: the store may have been down."""
        self._told = ()
        self._settle()
        self._follower.forget()
        self._ownership.claim("")
        self.troubles.over(OUR_TAGS)
        self._wake.set()

    def _settle(self) -> None:
        self._settled_at = self._clock.monotonic() + self._settings.report_ttl_s

    # The reconciler

    async def _reconcile_forever(self) -> None:
        while True:
            await set_within(self._wake, self._settings.state_poll_s)
            await asyncio.sleep(DEBOUNCE_S)
            self._wake.clear()
            lease = self._leadership.lease
            if lease is not None:
                await self._try_reconcile(lease)

    async def _try_reconcile(self, lease: Lease) -> None:
        try:
            await self._reconcile(lease)
        except LeaseLostError:
            self._leadership.lost()
        except StateStoreError as error:
            self._store_failed(error.message)
        except TimeoutError:
            self._store_failed(f"timed out after {STORE_TIMEOUT_S:g} s (state store)")
        except Exception as error:  # what is deployed goes on, and the next plan may succeed
            self.troubles.fault("plan", error)
        else:
            self.troubles.over("store")
            self.troubles.over("plan")

    def _store_failed(self, message: str) -> None:
        self.counts.store_failures += 1
        self._settle()
        self.troubles.tell("store", message)

    async def _reconcile(self, lease: Lease) -> None:
        async with asyncio.timeout(STORE_TIMEOUT_S):
            world = await self._look()
        started = self._clock.monotonic()
        result = plan(world, self._policy)
        self.counts.planned(result, self._clock.monotonic() - started)
        if (result.deployment, result.routing) != (world.deployment, world.routing):
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._store.apply(lease, result.deployment, result.routing)
            self.counts.applied(world.deployment, result.deployment)
            self._log_changes(world.deployment, world.routing, result)
        if result.spent:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._store.forget_turned_off(result.spent, lease)
        await self._write_history(lease, result)
        if self._leadership.lease == lease:
            self._after(result)

    async def _write_history(self, lease: Lease, result: Plan) -> None:
        """What cannot be written down holds up nothing: the next plan tells the same."""
        if not (result.events or result.past):
            return
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._store.write_history(lease, result.past, result.events)
        except LeaseLostError:
            raise
        except StateStoreError as error:
            self.troubles.tell("history", error.message)
        except TimeoutError:
            self.troubles.tell("history", f"timed out after {STORE_TIMEOUT_S:g} s (state store)")
        else:
            self.troubles.over("history")

    async def _look(self) -> World:
        if not self._ownership.owner:
            system = await self._store.system_id()
            self._ownership.claim(f"{system} {self._settings.namespace}@{node_name()}")
        return World(
            observed=self._follower.observed,
            deployment=await self._store.deployment(),
            routing=await self._store.routing(),
            workers=await self._store.workers(),
            gateways=await self._store.gateways(),
            now=self._clock.wall(),
            prepared=self._fetches.prepared,
            settling=self._clock.monotonic() < self._settled_at,
            trials=await self._store.trials(),
            turned_off=await self._store.turned_off(),
            emptied=self._follower.emptied,
            owner=self._ownership.owner,
            resting=self._ownership.resting(self._clock.monotonic()),
            past=await self._store.past(),
        )

    def _after(self, result: Plan) -> None:
        """Pass on what else follows from a plan."""
        for model, error in result.faults.items():
            self.troubles.fault(f"wishes of {model}", error)
        revisions = result.deployment.revisions.values()
        deployed = frozenset((each.model, each.version) for each in revisions)
        self._log_statuses(result)
        self._told = result.told
        self._follower.planned(deployed, result.statuses)
        self._fetches.want(result.fetches, result.sources)
        found = self._fetches.prepared.values()
        digests = {each.digest for each in found if isinstance(each, ArtifactManifest)}
        self._artifacts.keep_only(frozenset(digests | {each.manifest.digest for each in revisions}))

    def _log_statuses(self, result: Plan) -> None:
        """Say what is told of versions, where it is something else than before.

        A leader that has told nothing yet says what the registry does not show.
        """
        if result.told == self._told:
            return
        before = frozenset(self._told)
        gone = [each for each in result.told if each.gone]
        changed = [*result.statuses, *gone] if not before else result.told
        for each in changed:
            if each not in before:
                troubled = each.status in TROUBLED or each.gone
                tell = self._log.warning if troubled else self._log.info
                tell(
                    "status",
                    model=each.model,
                    version=each.version,
                    status=each.status.value,
                    message=each.message,
                )

    def _log_changes(self, deployment: Deployment, routing: RoutingTable, result: Plan) -> None:
        for name, revision in result.deployment.revisions.items():
            before = deployment.revisions.get(name)
            if before is None or before.phase is not revision.phase:
                message = revision.message
                self._log.info(
                    "revision",
                    revision=name,
                    phase=status_of_phase(revision).value,
                    message=message,
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

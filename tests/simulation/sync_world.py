"""All around a registry_sync daemon, with faults: store, registry, artifacts, workers, gateways.

The daemons are the real ones (`penstock.registry_sync.daemon.controller`), on a loop whose time
jumps. Each has a line of its own to the store. What an operator does, and what is served, is in
here too.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from penstock.registry_sync.daemon.controller import Controller
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.types import (
    ObservedModel,
    ObservedVersion,
    Registry,
    RegistryError,
    StatusUpdate,
    VersionKey,
    with_status,
)
from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    GatewayReport,
    ReplicaReport,
    ReplicaState,
    SyncReport,
    WorkerReport,
)
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.history import HistoryEvent, ModelPast
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.store.state import Lease
from tests.simulation.virtual_time import VirtualClock
from tests.support.memory_store import MemoryStateStore
from tests.unit.registry_sync.worlds import STABLE, gateway, manifest_for, observed, worker

SOCKET_TIMEOUT_S = 5.0
"""As the store's client has it."""

OBEY_S = 1.0
"""Between two reports of the worker and the gateway."""

LOOK_S = 0.5
"""Between two looks at whether what must hold does."""

MODEL, BESIDE = "digits", "beside"
"""The model whose versions the operator changes, and one that must not suffer."""

SETTINGS = SyncSettings(load_backoff_max_s=20.0, download_timeout_s=100.0)


class Line:
    """A daemon's own line to the one store: as slow, broken or dead as is asked for.

    Attributes:
        delay_s: lower and upper bound of the time that an answer takes.
        trouble: raised instead of an answer.
        full: writes that may grow are refused.
    """

    def __init__(self, store: MemoryStateStore, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self.delay_s = (0.0, 0.002)
        self.trouble: Callable[[], Exception] | None = None
        self.full = False

    async def _answer(self, call: Callable[[], Awaitable[Any]]) -> Any:
        delay_s = self._rng.uniform(*self.delay_s)
        # Half of it to the store, which does what was asked for; half of it back.
        await asyncio.sleep(min(delay_s, SOCKET_TIMEOUT_S) / 2)
        if self.trouble is not None:
            raise self.trouble()
        answer = await call() if delay_s < 2 * SOCKET_TIMEOUT_S else None
        await asyncio.sleep(min(delay_s, SOCKET_TIMEOUT_S) / 2)
        if delay_s > SOCKET_TIMEOUT_S:
            raise StateStoreError("state store: timed out")
        return answer

    async def deployment(self) -> Deployment:
        found: Deployment = await self._answer(self._store.deployment)
        return Deployment.model_validate_json(found.model_dump_json())

    async def routing(self) -> RoutingTable:
        found: RoutingTable = await self._answer(self._store.routing)
        return RoutingTable.model_validate_json(found.model_dump_json())

    async def apply(self, lease: Lease, deployment: Deployment, routing: RoutingTable) -> None:
        if self.full:
            raise StateStoreError("state store: OOM command not allowed")
        await self._answer(lambda: self._store.apply(lease, deployment, routing))

    async def workers(self) -> list[WorkerReport]:
        return list(await self._answer(self._store.workers))

    async def gateways(self) -> list[GatewayReport]:
        return list(await self._answer(self._store.gateways))

    async def trials(self) -> dict[str, int]:
        return dict(await self._answer(self._store.trials))

    async def system_id(self) -> str:
        return str(await self._answer(self._store.system_id))

    async def turned_off(self) -> frozenset[VersionKey]:
        return frozenset(await self._answer(self._store.turned_off))

    async def forget_turned_off(
        self, versions: Collection[VersionKey], lease: Lease | None = None
    ) -> None:
        await self._answer(lambda: self._store.forget_turned_off(versions, lease))

    async def past(self) -> dict[str, ModelPast]:
        return dict(await self._answer(self._store.past))

    async def write_history(
        self,
        lease: Lease,
        past: Mapping[str, ModelPast | None],
        events: Sequence[HistoryEvent],
    ) -> None:
        if self.full:
            raise StateStoreError("state store: OOM command not allowed")
        await self._answer(lambda: self._store.write_history(lease, past, events))

    async def acquire_lease(self, holder: str, ttl_s: float) -> Lease | None:
        lease: Lease | None = await self._answer(lambda: self._store.acquire_lease(holder, ttl_s))
        return lease

    async def release_lease(self, lease: Lease) -> None:
        await self._answer(lambda: self._store.release_lease(lease))

    async def watch(self, on_change: Callable[[], None]) -> None:
        if self.trouble is not None:
            raise self.trouble()
        await self._store.watch(on_change)

    async def report_sync(self, report: SyncReport, ttl_s: float) -> None:
        await self._answer(lambda: self._store.report_sync(report, ttl_s))

    async def forget_sync(self, name: str) -> None:
        await self._answer(lambda: self._store.forget_sync(name))


class _Hang(BaseException):
    """Raised in place of hanging: the thread that is played waits then."""


class SimulatedRegistry:
    """What an operator wishes, behind a source with faults; it also makes daemons' threads.

    Attributes:
        delay_s: what a call takes; infinite: it hangs until `release`.
        trouble: raised instead of an answer.
        refuses: statuses cannot be written.
        keeps_writers: who writes a status hangs until `release`, as behind a lock.
        odd: an odd model stands beside the others.
        polls: looks that succeeded.
    """

    def __init__(self) -> None:
        self.models: dict[str, ObservedModel] = {
            name: observed(name, {"1": STABLE}) for name in (MODEL, BESIDE)
        }
        self.delay_s = 0.01
        self.trouble: Callable[[], Exception] | None = None
        self.refuses = False
        self.keeps_writers = False
        self.lost = False
        self.odd: ObservedModel | None = None
        self.polls = 0
        self.writes = 0
        self.hanging = 0
        self.hanging_most = 0
        self._released = asyncio.Event()

    place = "the simulated registry"
    model_at = ""

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """As `in_thread` of `blocking`; a call that hangs cannot be cancelled."""
        if not math.isinf(self.delay_s):
            await asyncio.sleep(self.delay_s)
        try:
            return call()
        except _Hang:
            self.hanging += 1
            self.hanging_most = max(self.hanging, self.hanging_most)
            try:
                await self._released.wait()
            finally:
                self.hanging -= 1
            return None

    def release(self) -> None:
        """Those that hang go on."""
        self._released.set()
        self._released = asyncio.Event()

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        if math.isinf(self.delay_s):
            raise _Hang
        if self.trouble is not None:
            raise self.trouble()
        if self.lost and known:
            raise RegistryError("no models are listed")
        self.polls += 1
        odd = {} if self.odd is None else {self.odd.name: self.odd}
        return {} if self.lost else {**self.models, **odd}

    def write_status(self, update: StatusUpdate) -> None:
        self.writes += 1
        if math.isinf(self.delay_s) or self.keeps_writers:
            raise _Hang
        if self.trouble is not None:
            raise self.trouble()
        if self.refuses:
            raise RegistryError("HTTP 403 Forbidden")
        self.models = dict(with_status(self.models, update))

    def set_stable(self, version: str) -> None:
        """Name another version of the model stable."""
        before = {each.version: each for each in self.models[MODEL].versions}
        new = observed(MODEL, {version: STABLE}).versions[0]
        status = before.get(version, new).tags
        off = [
            ObservedVersion(
                MODEL,
                each.version,
                each.source,
                {tag: text for tag, text in each.tags.items() if tag != "penstock.role"},
            )
            for each in before.values()
            if each.version != version
        ]
        stable = ObservedVersion(MODEL, version, new.source, {**status, **STABLE})
        self.models = {**self.models, MODEL: ObservedModel(MODEL, versions=(*off, stable))}


class SimulatedArtifacts:
    """Finds a manifest everywhere, unless there is trouble; never ends while it hangs."""

    def __init__(self) -> None:
        self.trouble: Callable[[], Exception] | None = None
        self.hangs = False
        self.asked = 0

    def keep_only(self, digests: Collection[str]) -> None:
        pass

    async def discover(self, source: ArtifactSource) -> ArtifactManifest:
        self.asked += 1
        await asyncio.sleep(3600.0 * 24 if self.hangs else 0.1)
        if self.trouble is not None:
            raise self.trouble()
        return manifest_for(source)


class SyncWorld:
    """The system; `daemons` are those that run, by name."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.clock = VirtualClock()
        self.store = MemoryStateStore(self.clock)
        self.registry = SimulatedRegistry()
        self.artifacts = SimulatedArtifacts()
        self.lines: dict[str, Line] = {}
        self.controllers: dict[str, Controller] = {}
        self.served: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._obeying = asyncio.create_task(self._obey())

    def start(self, name: str) -> None:
        """Start a daemon."""
        self.lines[name] = line = Line(self.store, self.rng)
        self.controllers[name] = controller = Controller(
            SETTINGS,
            line,  # type: ignore[arg-type]  # the rest of the store, nobody here asks for
            lambda: self.registry,
            self.artifacts,
            self.clock,
            name,
            self.registry.in_thread,
        )
        self._tasks[name] = asyncio.create_task(controller.run())

    async def stop(self, name: str, *, killed: bool = False) -> None:
        """End a daemon; a killed one says nothing to the store any more."""
        if killed:
            self.lines[name].trouble = lambda: StateStoreError("dead")
        task = self._tasks.pop(name)
        del self.lines[name], self.controllers[name]
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def close(self) -> None:
        """End everything."""
        self.registry.release()
        for name in list(self._tasks):
            await self.stop(name)
        self._obeying.cancel()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and look all the while that what must hold does."""
        until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < until:
            await asyncio.sleep(LOOK_S)
            await self.check()

    async def until_served(self, version: str, within_s: float) -> float:
        """Wait until a version of the model serves; returns how long that took."""
        began = self.clock.monotonic()
        while await self.version_of(MODEL) != version:
            took_s = self.clock.monotonic() - began
            assert took_s <= within_s, f"version {version} does not serve after {took_s:.0f} s"
            await self.pass_time(LOOK_S)
        return self.clock.monotonic() - began

    async def version_of(self, model: str) -> str | None:
        """What the gateways route to."""
        route = (await self.store.routing()).models.get(model)
        return route.versions[0].version if route is not None and route.versions else None

    async def check(self) -> None:
        """What served goes on, nobody ended, and at most one daemon leads."""
        for model in (MODEL, BESIDE):
            if await self.version_of(model) is not None:
                self.served.add(model)
            else:
                assert model not in self.served, f"{model} served, and does no more"
        ended = [name for name, task in self._tasks.items() if task.done()]
        assert not ended, f"{ended} ended"
        assert sum(each.leading for each in self.controllers.values()) <= 1

    async def _obey(self) -> None:
        """One worker and one gateway that do what is written, and say so."""
        while True:
            deployment, routing = await self.store.deployment(), await self.store.routing()
            replicas = [
                ReplicaReport(
                    key=each.key,
                    replica=each.key,
                    model=each.model,
                    version=each.version,
                    revision=each.revision,
                    state=ReplicaState.READY,
                    device=each.device,
                    pid=1,
                )
                for each in deployment.placement
            ]
            ready = {each.revision: 1 for each in replicas}
            await self.store.report_worker(worker("w1", replicas), 10.0, notify=False)
            await self.store.report_gateway(
                gateway("g1", routing.generation, ready), 10.0, notify=False
            )
            await asyncio.sleep(OBEY_S)

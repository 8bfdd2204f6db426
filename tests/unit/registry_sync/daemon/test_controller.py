"""The daemon's loops over a store in memory, a registry that can hang, and obedient workers."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from penstock.registry_sync.daemon.controller import Controller
from penstock.registry_sync.daemon.fetches import Fetches
from penstock.registry_sync.daemon.leadership import Leadership
from penstock.registry_sync.daemon.metrics import SyncCounts
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.types import (
    Registry,
    RegistryError,
    Status,
    StatusUpdate,
    VersionKey,
    with_status,
)
from penstock.shared.artifacts.cache import ArtifactError
from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    ReplicaReport,
    ReplicaState,
)
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.history import HistoryEvent, ModelPast
from penstock.shared.process.clock import SystemClock
from penstock.shared.store.state import Lease
from tests.support.memory_store import MemoryStateStore
from tests.support.waiting import eventually
from tests.unit.registry_sync.worlds import (
    STABLE,
    gateway,
    manifest_for,
    observed,
    registry,
    worker,
)

SETTINGS = SyncSettings(
    poll_interval_s=0.05,
    state_poll_s=0.05,
    lease_ttl_s=1.0,
    report_ttl_s=0.2,
    load_backoff_s=0.1,
)


class FakeRegistry:
    """A registry whose answers can be made to fail or to hang."""

    def __init__(self, models: Registry) -> None:
        self.models = models
        self.down = False
        self.trouble = "down"
        self.gate = threading.Event()
        self.gate.set()
        self.polls = 0
        self.writes: list[StatusUpdate] = []

    place = "the fake registry"
    model_at = ""

    def observe(self, known: Collection[VersionKey], without: Collection[str] = ()) -> Registry:
        self.polls += 1
        self.gate.wait(10)
        if self.down:
            raise RegistryError(self.trouble)
        return self.models

    def write_status(self, update: StatusUpdate) -> None:
        if self.down:
            raise RegistryError("down")
        self.writes.append(update)
        self.models = with_status(self.models, update)


class FakeArtifacts:
    """Finds a manifest at every source, except at those that are broken."""

    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.disk_is_full = False
        self.kept: frozenset[str] = frozenset()
        self.fetched: list[str] = []

    def keep_only(self, digests: Collection[str]) -> None:
        self.kept = frozenset(digests)

    async def discover(self, source: ArtifactSource) -> ArtifactManifest:
        self.fetched.append(source.uri)
        if self.disk_is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        if source.uri in self.broken:
            raise ArtifactError("broken")
        return manifest_for(source)


class BrokenArtifacts(FakeArtifacts):
    """Raises what nobody foresaw."""

    async def discover(self, source: ArtifactSource) -> ArtifactManifest:
        self.fetched.append(source.uri)
        raise KeyError("nobody foresaw this")


class FlakyStore(MemoryStateStore):
    """A store that can be away, or whose answers about the lease are lost."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.away = False
        self.deaf = False
        self.forgetful = False

    async def deployment(self) -> Deployment:
        self._check()
        return await super().deployment()

    async def acquire_lease(self, holder: str, ttl_s: float) -> Lease | None:
        self._check()
        lease = await super().acquire_lease(holder, ttl_s)
        if self.deaf:
            raise StateStoreError("the answer came too late")
        return lease

    async def write_history(
        self,
        lease: Lease,
        past: Mapping[str, ModelPast | None],
        events: Sequence[HistoryEvent],
    ) -> None:
        if self.forgetful:
            raise StateStoreError("nothing more can be written down")
        await super().write_history(lease, past, events)

    def _check(self) -> None:
        if self.away:
            raise StateStoreError("away")


class Stage:
    """A store, a registry, artifacts, one worker and one gateway that obey."""

    def __init__(self) -> None:
        self.store = FlakyStore()
        self.registry = FakeRegistry(registry(observed(versions={"1": STABLE})))
        self.artifacts = FakeArtifacts()
        self.note = ""

    def controller(self, holder: str = "a") -> Controller:
        return Controller(
            SETTINGS, self.store, lambda: self.registry, self.artifacts, SystemClock(), holder
        )

    async def obey(self) -> None:
        while True:
            deployment = await MemoryStateStore.deployment(self.store)
            routing = await self.store.routing()
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
                    note=self.note,
                )
                for each in deployment.placement
            ]
            ready = {each.revision: 1 for each in replicas}
            await self.store.report_worker(worker("w1", replicas), 1.0, notify=False)
            await self.store.report_gateway(
                gateway("g1", routing.generation, ready), 1.0, notify=False
            )
            await asyncio.sleep(0.02)

    async def routed(self) -> str | None:
        route = (await self.store.routing()).models.get("digits")
        return route.versions[0].version if route is not None and route.versions else None

    async def until_routed(self, version: str) -> None:
        async with asyncio.timeout(10):
            while await self.routed() != version:
                await asyncio.sleep(0.01)

    def status(self, version: str) -> str | None:
        seen = self.registry.models["digits"].version(version)
        return seen.tags.get("penstock.status") if seen is not None else None


@asynccontextmanager
async def running(*coroutines: object) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [asyncio.ensure_future(each) for each in coroutines]  # type: ignore[call-overload]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_it_deploys_swaps_and_tells(stage: Stage) -> None:
    async with running(stage.controller().run(), stage.obey()):
        await stage.until_routed("1")
        await eventually(lambda: stage.status("1") == "serving")
        stage.registry.models = registry(observed(versions={"1": STABLE, "2": STABLE}))
        await stage.until_routed("2")
        await eventually(lambda: stage.status("2") == "serving")
        await eventually(lambda: stage.status("1") == "superseded")
        deployment = await stage.store.deployment()
        assert stage.artifacts.kept == {
            each.manifest.digest for each in deployment.revisions.values()
        } | {
            manifest_for(
                ArtifactSource(uri="models:/digits/2", tracking_uri="", identity="1")
            ).digest
        }
    written = [(update.version, update.status.value) for update in stage.registry.writes]
    assert ("1", "draining") in written or ("1", "superseded") in written
    assert len(written) == len(set(written)) or len(written) < 12


async def test_nothing_is_written_while_nothing_changes(stage: Stage) -> None:
    async with running(stage.controller().run(), stage.obey()):
        await stage.until_routed("1")
        await eventually(lambda: stage.status("1") == "serving")
        await asyncio.sleep(0.3)
        serial = (await stage.store.deployment()).serial
        writes, polls = len(stage.registry.writes), stage.registry.polls
        await eventually(lambda: stage.registry.polls > polls + 3)
        assert (await stage.store.deployment()).serial == serial
        assert len(stage.registry.writes) == writes


async def test_a_hanging_registry_stops_neither_rollout_nor_lease(stage: Stage) -> None:
    async with running(stage.controller().run()):
        await eventually(lambda: bool(stage.artifacts.fetched))
        stage.registry.gate.clear()
        async with running(stage.obey()):
            await stage.until_routed("1")
            await asyncio.sleep(SETTINGS.lease_ttl_s * 1.5)
            assert await stage.store.acquire_lease("thief", 1.0) is None
        stage.registry.gate.set()


async def test_without_the_registry_a_restart_goes_on(stage: Stage) -> None:
    async with running(stage.obey()):
        async with running(stage.controller().run()):
            await stage.until_routed("1")
        stage.registry.down = True
        before = await stage.store.routing()
        async with running(stage.controller("b").run()):
            polls = stage.registry.polls
            await eventually(lambda: stage.registry.polls > polls + 2)
            assert await stage.store.routing() == before
            stage.registry.down = False
            stage.registry.models = registry(observed(versions={"2": STABLE}))
            await stage.until_routed("2")


async def test_an_outage_of_the_store_is_waited_for(stage: Stage) -> None:
    async with running(stage.controller().run(), stage.obey()):
        await stage.until_routed("1")
        stage.store.away = True
        stage.registry.models = registry(observed(versions={"2": STABLE}))
        await asyncio.sleep(0.3)
        assert await stage.routed() == "1"
        stage.store.away = False
        await stage.until_routed("2")


async def test_a_standby_takes_over_at_once_when_the_leader_leaves(stage: Stage) -> None:
    async with running(stage.obey(), stage.controller("b").run()):
        async with running(stage.controller("a").run()):
            await stage.until_routed("1")
        stage.registry.models = registry(observed(versions={"2": STABLE}))
        await stage.until_routed("2")


async def test_two_daemons_never_both_lead(stage: Stage) -> None:
    async with running(stage.obey(), *(stage.controller(f"d{n}").run() for n in range(3))):
        await stage.until_routed("1")
        await asyncio.sleep(0.2)
        assert stage.artifacts.fetched == ["models:/digits/1"]


async def test_a_failed_fetch_is_tried_again(stage: Stage) -> None:
    stage.artifacts.broken.add("models:/digits/1")
    async with running(stage.controller().run(), stage.obey()):
        await eventually(lambda: stage.status("1") == "failed")
        await eventually(lambda: len(stage.artifacts.fetched) >= 2)
        assert await stage.routed() is None
        stage.artifacts.broken.clear()
        await stage.until_routed("1")


async def test_a_fetch_that_the_machine_refuses_is_a_failed_one(stage: Stage) -> None:
    stage.artifacts.disk_is_full = True
    async with running(stage.controller().run(), stage.obey()):
        await eventually(lambda: stage.status("1") == "failed")
        await eventually(lambda: len(stage.artifacts.fetched) >= 2)
        message = stage.registry.writes[-1].message
        assert message == "artifacts: models:/digits/1: OSError: No space left on device"
        stage.artifacts.disk_is_full = False
        await stage.until_routed("1")


async def test_what_is_wrong_is_said_once_and_said_again_when_it_is_something_else(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    def told() -> list[str]:
        # Of the registry alone: a status that is still to be written fails by itself.
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if "unavailable" in line and "what=registry" in line]

    async def polls(more: int) -> None:
        target = stage.registry.polls + more
        await eventually(lambda: stage.registry.polls >= target)

    async with running(stage.controller().run(), stage.obey()):
        await stage.until_routed("1")
        stage.registry.down = True
        stage.registry.trouble = "no answer of <Connection at 0x7f01>"
        await polls(3)
        stage.registry.trouble = "no answer of <Connection at 0x7f02>"
        await polls(3)
        assert len(told()) == 1
        stage.registry.trouble = "no models are listed"
        await polls(3)
        (line,) = told()
        assert "no models are listed" in line


async def test_the_log_says_once_what_a_status_says(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.note = "one row at a time: output 'y' differs in a batch"
    lines: list[str] = []

    def said(*words: str) -> int:
        lines.extend(capsys.readouterr().out.splitlines())
        return sum(all(word in line for word in ("status", *words)) for line in lines)

    async with running(stage.controller().run(), stage.obey()):
        await eventually(lambda: said("status=serving", "one row at a time") > 0)
        odd = {"1": STABLE, "2": {"penstock.role": "stabel"}}
        stage.registry.models = registry(observed(versions=odd))
        await eventually(lambda: said("warning", "status=invalid", "stabel") > 0)
        polls = stage.registry.polls
        await eventually(lambda: stage.registry.polls >= polls + 3)
    assert said("status=invalid", "version=2") == 1
    assert said("status=serving", "version=1", "one row at a time") == 1


async def test_what_cannot_be_written_down_holds_up_nothing_and_is_told_later(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    async def switches() -> list[tuple[str, str]]:
        events = await stage.store.history("digits")
        return [(each.before, each.version) for each in events if each.kind == "switched"]

    async with running(stage.controller().run(), stage.obey()):
        await stage.until_routed("1")
        await eventually(lambda: stage.status("1") == "serving")
        stage.store.forgetful = True
        stage.registry.models = registry(observed(versions={"1": STABLE, "2": STABLE}))
        await stage.until_routed("2")
        await eventually(lambda: stage.status("2") == "serving")
        stage.store.forgetful = False
        async with asyncio.timeout(10):
            while await switches() != [("", "1"), ("1", "2")]:
                await asyncio.sleep(0.01)
    assert "nothing more can be written down" in capsys.readouterr().out


async def test_a_new_leader_tells_no_event_again(stage: Stage) -> None:
    async with running(stage.obey()):
        async with running(stage.controller("a").run()):
            await stage.until_routed("1")
            await eventually(lambda: stage.status("1") == "serving")
        before = await stage.store.history("digits")
        async with running(stage.controller("b").run()):
            stage.registry.models = registry(observed(versions={"1": STABLE, "2": STABLE}))
            await stage.until_routed("2")
            await eventually(lambda: stage.status("2") == "serving")
    after = await stage.store.history("digits")
    assert after[: len(before)] == before
    assert [each.kind for each in after] == ["wanted", "switched"] * 2


async def test_leadership_ends_when_the_store_does_not_answer_in_time() -> None:
    store = FlakyStore()
    changes: list[bool] = []
    troubles = Troubles(SyncCounts())
    leadership = Leadership(store, SystemClock(), "a", 0.3, lambda: changes.append(True), troubles)
    async with running(leadership.run()):
        await eventually(lambda: leadership.lease is not None)
        store.away = True
        await eventually(lambda: leadership.lease is None and len(changes) == 2)
        store.away = False
        await eventually(lambda: leadership.lease is not None)
    assert await store.acquire_lease("b", 1.0) is not None
    assert len(changes) >= 3


async def test_a_fetch_that_raises_what_nobody_foresaw_is_a_failed_one(stage: Stage) -> None:
    stage.artifacts = BrokenArtifacts()
    controller = stage.controller()
    async with running(controller.run(), stage.obey()):
        await eventually(lambda: stage.status("1") == "failed")
        assert "KeyError: 'nobody foresaw this'" in stage.registry.writes[-1].message
        await eventually(lambda: controller.counts.fetch_failures >= 3)
        # Each waits twice as long as the one before; it used to be tried again at once.
        assert controller.counts.fetches <= 5
        assert controller.counts.faults == controller.counts.fetch_failures


async def test_a_fetch_that_was_given_up_before_it_began_is_made_when_it_is_wished_again() -> None:
    artifacts = FakeArtifacts()
    counts = SyncCounts()
    fetches = Fetches(
        artifacts,
        SETTINGS.policy(),
        SystemClock(),
        2,
        10.0,
        lambda: None,
        counts,
        Troubles(counts),
    )
    source = ArtifactSource(uri="models:/digits/1", tracking_uri="", identity="1")
    fetches.want([source], [source])
    fetches.want([], [])
    await asyncio.sleep(0.05)
    fetches.want([source], [source])
    await eventually(lambda: source in fetches.prepared)
    await fetches.close()


async def test_the_registry_is_read_anew_after_a_lease_that_came_back_the_same() -> None:
    """The store kept the lease, but we could not know that."""
    stage = Stage()
    controller = stage.controller()
    async with running(controller.run(), stage.obey()):
        await stage.until_routed("1")
        stage.store.deaf = True
        await eventually(lambda: not controller.leading)
        stage.registry.models = registry(observed(versions={"2": STABLE}))
        stage.store.deaf = False
        await stage.until_routed("2")


async def test_a_registry_that_is_away_or_empty_is_a_lasting_trouble(stage: Stage) -> None:
    controller = stage.controller()
    async with running(controller.run(), stage.obey()):
        await stage.until_routed("1")
        assert controller.lasting_troubles == ()
        stage.registry.down = True
        await eventually(lambda: controller.lasting_troubles == ("registry: down",))
        stage.registry.down = False
        await eventually(lambda: controller.lasting_troubles == ())


async def test_a_deleted_model_is_told_and_off_ends_it(stage: Stage) -> None:
    controller = stage.controller()
    async with running(controller.run(), stage.obey()):
        await stage.until_routed("1")
        stage.registry.models = {}
        await eventually(lambda: controller.gone_versions == 1)
        assert await stage.routed() == "1"
        await stage.store.turn_off("digits", ["1"])
        async with asyncio.timeout(10):
            while (await stage.store.deployment()).revisions:
                await asyncio.sleep(0.01)
            while await stage.store.turned_off():
                await asyncio.sleep(0.01)
        await eventually(lambda: controller.gone_versions == 0)


async def test_a_system_that_writes_the_same_tags_is_noticed(stage: Stage) -> None:
    controller = stage.controller()
    async with running(controller.run(), stage.obey()):
        await stage.until_routed("1")
        await eventually(lambda: stage.status("1") == "serving")
        other = StatusUpdate("digits", "1", Status.LOADING, owner="other system@elsewhere")
        stage.registry.models = with_status(stage.registry.models, other)
        await eventually(lambda: controller.contested_versions == 1)
        (trouble,) = controller.lasting_troubles
        assert "another system writes them too, as other system@elsewhere" in trouble
        await eventually(lambda: stage.status("1") == "serving")

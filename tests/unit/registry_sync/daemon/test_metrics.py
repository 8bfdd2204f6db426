"""What a daemon says of itself: counts, who leads, and that it is there."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from penstock.registry_sync.daemon.metrics import SyncCollector, SyncCounts
from penstock.registry_sync.daemon.presence import report_presence
from penstock.registry_sync.daemon.troubles import Troubles
from penstock.registry_sync.plan.version_phases import PHASES
from penstock.registry_sync.plan.world import Plan
from penstock.shared.contracts.deployment import ReplicaState, SyncReport
from penstock.shared.process.clock import SystemClock
from tests.support.memory_store import MemoryStateStore
from tests.unit.registry_sync.daemon.test_controller import Stage, running
from tests.unit.registry_sync.worlds import STABLE, Scene, observed, registry


@dataclass
class State:
    """What a daemon says of itself."""

    leading: bool
    registry_age_s: float = 0.0
    hanging_calls: int = 0


def failed_plan() -> Plan:
    """Of a scene in which a version cannot be loaded."""
    scene = Scene()
    scene.models = registry(observed(versions={"1": STABLE}))
    scene.states["1"] = ReplicaState.FAILED
    scene.settle()
    return scene.plan()


def versions_on(page: CollectorRegistry) -> dict[str, float]:
    """Versions in each phase, added up as an alert would."""
    found: dict[str, float] = {}
    for family in page.collect():
        for sample in family.samples:
            if sample.name == "penstock_sync_versions":
                phase = sample.labels["phase"]
                found[phase] = found.get(phase, 0) + sample.value
    return found


def registry_of(counts: SyncCounts, leading: bool) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SyncCollector(counts, State(leading)))
    return registry


async def test_a_daemon_counts_what_it_does() -> None:
    stage = Stage()
    controller = stage.controller()
    async with running(controller.run(), stage.obey()):
        await stage.until_routed("1")
        async with asyncio.timeout(10):
            while stage.status("1") != "serving":
                await asyncio.sleep(0.01)
        stage.registry.down = True
        async with asyncio.timeout(10):
            while not controller.counts.poll_failures:
                await asyncio.sleep(0.01)
        page = registry_of(controller.counts, controller.leading)
        assert page.get_sample_value("penstock_sync_leader") == 1
        served = {"model": "digits", "version": "1", "phase": "serving"}
        assert page.get_sample_value("penstock_sync_versions", served) == 1
        swaps = "penstock_sync_swap_seconds_count"
        assert page.get_sample_value(swaps, {"model": "digits"}) == 1
    counts = controller.counts
    assert counts.polls > counts.poll_failures > 0
    assert counts.status_writes == len(stage.registry.writes)
    assert (counts.fetches, counts.fetch_failures) == (1, 0)
    assert sum(counts.plan_times) > 0


async def test_a_download_that_fails_is_counted() -> None:
    stage = Stage()
    stage.artifacts.broken.add("models:/digits/1")
    controller = stage.controller()
    async with running(controller.run(), stage.obey()), asyncio.timeout(10):
        while not controller.counts.fetch_failures:
            await asyncio.sleep(0.01)


def test_only_the_leader_counts_versions() -> None:
    counts = SyncCounts()
    counts.planned(failed_plan(), 0.002)
    page = registry_of(counts, leading=False)
    assert page.get_sample_value("penstock_sync_leader") == 0
    assert versions_on(page) == dict.fromkeys(PHASES, 0)
    assert versions_on(registry_of(counts, leading=True))["failed"] == 1
    assert page.get_sample_value("penstock_sync_plan_seconds_bucket", {"le": "0.001"}) == 0
    assert page.get_sample_value("penstock_sync_plan_seconds_bucket", {"le": "0.005"}) == 1
    assert page.get_sample_value("penstock_sync_plan_seconds_count") == 1


async def test_a_daemon_reports_itself_and_leaves_nothing() -> None:
    store = MemoryStateStore(SystemClock())
    report = SyncReport(sync="s", node="n", pid=1, metrics_port=2)
    reporting = asyncio.create_task(
        report_presence(store, lambda: report, 0.01, 1.0, Troubles(SyncCounts()))
    )
    async with asyncio.timeout(5):
        while await store.syncs() != [report]:
            await asyncio.sleep(0.01)
    reporting.cancel()
    with suppress(asyncio.CancelledError):
        await reporting
    assert await store.syncs() == []


def test_a_daemon_tells_what_hangs_and_how_old_is_what_it_saw() -> None:
    page = CollectorRegistry()
    page.register(SyncCollector(SyncCounts(faults=3), State(True, 7.5, 2)))
    assert page.get_sample_value("penstock_sync_registry_age_seconds") == 7.5
    assert page.get_sample_value("penstock_sync_hanging_calls") == 2
    assert page.get_sample_value("penstock_sync_faults_total") == 3

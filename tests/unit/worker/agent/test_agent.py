"""The agent with real child processes: fakes that speak the control protocol, without a model."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from penstock.shared.contracts.deployment import (
    Deployment,
    GatewayReport,
    ReplicaReport,
    ReplicaState,
    WorkerReport,
)
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.process.clock import SystemClock
from penstock.shared.store.state import Lease
from penstock.worker.agent.agent import Agent
from penstock.worker.agent.findings import own_environment
from tests.support.memory_store import MemoryStateStore
from tests.support.waiting import eventually
from tests.unit.worker.agent_bench import (
    PATIENCE_S,
    WORKER,
    FakeArtifacts,
    deployment,
    lives,
    make_agent,
    routing,
)
from tests.unit.worker.fake_replica import LOWERED

pytestmark = pytest.mark.costly


class FlakyStore(MemoryStateStore):
    """A store that can be away."""

    away = False
    reads = 0

    async def deployment(self) -> Deployment:
        self._check()
        self.reads += 1
        return await super().deployment()

    async def routing(self) -> RoutingTable:
        self._check()
        return await super().routing()

    async def gateways(self) -> list[GatewayReport]:
        self._check()
        return await super().gateways()

    async def report_worker(self, report: WorkerReport, ttl_s: float, *, notify: bool) -> None:
        self._check()
        await super().report_worker(report, ttl_s, notify=notify)

    async def forget_worker(self, name: str) -> None:
        self._check()
        await super().forget_worker(name)

    def _check(self) -> None:
        if self.away:
            raise StateStoreError("away")


class World:
    """One agent, its store, and what its replicas heard."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.store = FlakyStore(SystemClock())
        self.artifacts = FakeArtifacts(log)
        self.serial = 0
        self.lease = Lease("", 0)
        self.agent: Agent | None = None
        self.task: asyncio.Task[None] | None = None
        self.worker: WorkerReport | None = None

    async def start(self, **changes: object) -> None:
        lease = await self.store.acquire_lease("test", 3600)
        assert lease is not None
        self.lease = lease
        self.agent = make_agent(self.store, self.artifacts, self.log, adopts=False, **changes)
        self.task = asyncio.create_task(self.agent.run())

    async def place(self, *models: str, replicas: int = 1, generation: int = 1) -> None:
        self.serial += 1
        desired = deployment(models, self.serial, replicas=replicas)
        await self.store.apply(self.lease, desired, routing(models, generation))

    async def report_is(self, *states: tuple[str, ReplicaState]) -> WorkerReport:
        """Wait until the reported states, by key, are these."""
        found: list[tuple[str, ReplicaState]] = []
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    for report in await self.store.workers():
                        found = [(one.key, one.state) for one in report.replicas]
                        if found == list(states) and report.deployment_serial == self.serial:
                            return report
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"reported {found}, not {states}") from None

    async def ready(self, key: str) -> ReplicaReport:
        """Wait until the only replica is ready."""
        return (await self.report_is((key, ReplicaState.READY))).replicas[0]

    async def ready_anew(self, before: ReplicaReport) -> ReplicaReport:
        """Wait until another life of the only replica is ready."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                after = await self.ready(before.key)
                if after.replica != before.replica:
                    return after
                await asyncio.sleep(0.02)

    def heard(self, replica: str) -> str:
        """All that a replica wrote down."""
        log = self.log / replica
        return log.read_text() if log.exists() else ""

    async def stop(self) -> None:
        if self.agent is not None and self.task is not None and not self.task.done():
            self.agent.stop()
            self.agent.stop()
            await self.task


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.stop()


async def test_placed_ready_unplaced_gone(world: World) -> None:
    await world.start()
    assert (await world.report_is()).worker == WORKER
    await world.place("digits", replicas=2)
    report = await world.report_is(
        ("digits/0", ReplicaState.READY), ("digits/1", ReplicaState.READY)
    )
    first, second = report.replicas
    assert first.provider == "FakeProvider"
    assert first.device == "cpu"
    assert report.pid == os.getpid()
    pids = [replica.pid for replica in report.replicas]
    assert None not in pids
    assert "threads 4" in world.heard(first.replica)
    assert '"threads":4' in world.heard(first.replica)
    await world.place("digits")
    await world.report_is(("digits/0", ReplicaState.READY))
    assert '"type":"drain"' in world.heard(second.replica)
    assert not lives(second.pid or 0)
    assert lives(first.pid or 0)


async def test_killed_child_comes_back(world: World) -> None:
    await world.start()
    await world.place("digits")
    before = await world.ready("digits/0")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    after = await world.ready_anew(before)
    assert after.pid != before.pid
    assert after.restarts == 1


async def test_bad_models_take_nobody_down(world: World) -> None:
    await world.start()
    await world.place("dies", "digits", "refuses")
    report = await world.report_is(
        ("dies/0", ReplicaState.FAILED),
        ("digits/0", ReplicaState.READY),
        ("refuses/0", ReplicaState.INVALID),
    )
    assert report.replicas[0].message == "ended 2 times while loading: ended by SIGSEGV"
    assert report.replicas[2].message == "no signature"


async def test_child_that_babbles_is_killed(world: World) -> None:
    await world.start()
    await world.place("babbles")
    await eventually(lambda: len(list(world.log.iterdir())) >= 3)
    for report in await world.store.workers():
        assert report.replicas[0].restarts >= 1


async def test_what_a_child_started_ends_with_it(world: World) -> None:
    await world.start()
    await world.place("spawns")
    pid = (await world.ready("spawns/0")).pid
    assert pid is not None
    (grandchild,) = children_of(pid)
    await world.place()
    await world.report_is()
    await eventually(lambda: not lives(grandchild))


async def test_child_that_never_gets_ready(world: World) -> None:
    await world.start(load_timeout_s=0.5)
    await world.place("loads")
    report = await world.report_is(("loads/0", ReplicaState.FAILED))
    assert report.replicas[0].message == "not ready within 0.5 s"


async def test_missing_artifacts_are_awaited(world: World) -> None:
    world.artifacts.missing = {"models:/digits/1"}
    await world.start()
    await world.place("digits")
    report = await world.report_is(("digits/0", ReplicaState.BACKOFF))
    assert report.replicas[0].message == "MLflow is away"
    assert len(world.artifacts.kept) == 1
    world.artifacts.missing = set()
    await world.ready("digits/0")


async def test_a_model_whose_environment_cannot_be_built_has_failed(world: World) -> None:
    await world.start()
    world.serial += 1
    desired = deployment(["digits"], world.serial, environment="isolated")
    await world.store.apply(world.lease, desired, routing(["digits"], 1))
    report = await world.report_is(("digits/0", ReplicaState.FAILED))
    assert "no environment for" in report.replicas[0].message


async def test_gateways_and_routes_reach_replicas(world: World) -> None:
    await world.start()
    await world.place("digits")
    replica = (await world.ready("digits/0")).replica
    gateway = GatewayReport(
        gateway="g-0", incarnation="g-0-1", node="n", pid=1, endpoint="ipc:///tmp/g"
    )
    await world.store.report_gateway(gateway, 60, notify=True)
    await eventually(lambda: "ipc:///tmp/g" in world.heard(replica))
    await world.place("digits", generation=7)
    await eventually(lambda: '"generation":7' in world.heard(replica))


async def test_without_the_store_everything_goes_on(world: World) -> None:
    await world.start()
    await world.place("digits")
    before = await world.ready("digits/0")
    world.store.away = True
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await eventually(lambda: len(list(world.log.iterdir())) == 2)
    world.store.away = False
    after = await world.ready_anew(before)
    assert after.restarts == 1


async def test_an_emptied_store_unplaces_nothing(world: World) -> None:
    await world.start()
    await world.place("digits")
    before = await world.ready("digits/0")
    await world.store.apply(world.lease, Deployment(), RoutingTable())
    reads = world.store.reads
    await eventually(lambda: world.store.reads >= reads + 2)
    await world.store.forget_worker(WORKER)
    assert (await world.ready("digits/0")).replica == before.replica


async def test_metrics_are_monotonic_over_lives(world: World) -> None:
    await world.start(metrics_port=0)
    await world.place("digits")
    before = await world.ready("digits/0")
    port = (await world.store.workers())[0].metrics_port
    assert before.pid is not None

    await eventually(lambda: requests_counted(port) >= 3)
    counted = requests_counted(port)
    os.kill(before.pid, signal.SIGKILL)
    await world.ready_anew(before)
    assert requests_counted(port) >= counted
    await eventually(lambda: requests_counted(port) > counted)


async def test_an_idle_agent_leaves_at_once(world: World) -> None:
    await world.start()
    await world.report_is()
    assert world.agent is not None
    assert world.task is not None
    world.agent.stop()
    await asyncio.wait_for(world.task, PATIENCE_S)
    assert await world.store.workers() == []


async def test_a_drain_is_reported_and_cut_short_by_a_second_stop(world: World) -> None:
    await world.start(drain_grace_s=600)
    await world.place("deaf")
    pid = (await world.ready("deaf/0")).pid
    assert pid is not None
    assert world.agent is not None
    assert world.task is not None
    world.agent.stop()
    report = await world.report_is(("deaf/0", ReplicaState.DRAINING))
    assert report.draining
    assert lives(pid)
    world.agent.stop()
    await asyncio.wait_for(world.task, PATIENCE_S)
    assert not lives(pid)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
async def test_children_end_with_the_agent(tmp_path: Path, signum: signal.Signals) -> None:
    models = ["digits", "deaf", "other"] if signum == signal.SIGKILL else ["digits", "other"]
    command = [sys.executable, "-m", "tests.unit.worker.agent_bench", str(tmp_path), *models]
    agent = subprocess.Popen(command)  # noqa: ASYNC220 - it lasts a millisecond
    try:
        await eventually(lambda: len(pids_in(tmp_path)) == len(models))
        pids = pids_in(tmp_path)
        assert all(lives(pid) for pid in pids)
        agent.send_signal(signum)
        await eventually(lambda: agent.poll() is not None)
        await eventually(lambda: not any(lives(pid) for pid in pids))
        if signum == signal.SIGTERM:
            assert drained(tmp_path) == len(models)
        assert agent.returncode == (0 if signum == signal.SIGTERM else -signum)
    finally:
        agent.kill()
        agent.wait()


@pytest.mark.parametrize("end", ["the replica dies", "the agent leaves", "the agent is stopped"])
async def test_what_a_model_started_in_a_session_of_its_own_ends_with_its_replica(
    tmp_path: Path, end: str
) -> None:
    command = [sys.executable, "-m", "tests.unit.worker.agent_bench", str(tmp_path), "detaches"]
    agent = subprocess.Popen([*command, "digits"])  # noqa: ASYNC220 - it lasts a millisecond
    try:
        await eventually(lambda: len(noted_in(tmp_path, "daemon ")) == 1)
        await eventually(lambda: len(noted_in(tmp_path, "pid ")) == 2)
        (daemon,) = noted_in(tmp_path, "daemon ")
        await asyncio.sleep(0.5)
        assert lives(daemon)  # others end or not: its replica lives
        if end == "the replica dies":
            os.kill(parent_of(daemon), signal.SIGKILL)
        else:
            agent.send_signal(signal.SIGTERM)
            if end == "the agent is stopped":
                agent.send_signal(signal.SIGTERM)
        await eventually(lambda: not lives(daemon))
    finally:
        agent.terminate()
        agent.wait(PATIENCE_S)
    assert not any(lives(daemon) for daemon in noted_in(tmp_path, "daemon "))


def parent_of(pid: int) -> int:
    """Process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def requests_counted(port: int) -> float:
    """The counter of requests, as scraped; in-between, the agent's thread answers."""
    url = f"http://127.0.0.1:{port}/metrics"
    text = urllib.request.urlopen(url, timeout=PATIENCE_S).read().decode()
    for line in text.splitlines():
        if line.startswith('penstock_replica_requests_total{model="digits",version="1"} '):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def children_of(pid: int) -> list[int]:
    """Process ids of a process's children."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def drained(log: Path) -> int:
    """How many replicas were told to drain."""
    return sum('"type":"drain"' in file.read_text() for file in log.iterdir())


def pids_in(log: Path) -> list[int]:
    """Process ids of replicas that wrote theirs down."""
    return noted_in(log, "pid ")


def noted_in(log: Path, kind: str) -> list[int]:
    """Process ids that replicas wrote down."""
    return [
        int(line.removeprefix(kind))
        for file in log.iterdir()
        for line in file.read_text().splitlines()
        if line.startswith(kind)
    ]


async def test_what_a_first_load_found_is_stored_and_told_to_the_next(world: World) -> None:
    await world.start()
    await world.place("digits")
    first = await world.ready("digits/0")
    assert '"finding":null' in world.heard(first.replica)

    async with asyncio.timeout(PATIENCE_S):
        while not await world.store.findings("digits-r"):
            await asyncio.sleep(0.02)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    after = await world.ready_anew(first)
    assert '"merges":true' in world.heard(after.replica)


async def test_what_a_replica_found_out_is_reported_and_holds_without_the_store(
    world: World,
) -> None:
    await world.start()
    await world.place("lowers")
    before = await world.ready("lowers/0")
    note = "not batched: the fake says so"
    async with asyncio.timeout(PATIENCE_S):
        while (await world.store.workers())[0].replicas[0].note != note:
            await asyncio.sleep(0.02)
    world.store.away = True
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    await eventually(lambda: len(list(world.log.iterdir())) == 2)
    world.store.away = False
    after = await world.ready_anew(before)
    assert f'"reason":"{note}"' in world.heard(after.replica)


LOWER = '"type":"lower"'


async def test_what_one_replica_found_out_is_told_to_others_of_the_worker(world: World) -> None:
    await world.start()
    await world.place("lowers", "digits", replicas=2)
    ready = ReplicaState.READY
    report = await world.report_is(
        ("digits/0", ready), ("digits/1", ready), ("lowers/0", ready), ("lowers/1", ready)
    )
    replicas = {each.key: each.replica for each in report.replicas}
    await eventually(lambda: LOWER in world.heard(replicas["lowers/1"]))
    assert LOWERED.reason in world.heard(replicas["lowers/1"])
    assert LOWER not in world.heard(replicas["digits/0"]) + world.heard(replicas["digits/1"])


async def test_what_a_replica_of_another_worker_found_out_is_told_to_ours(world: World) -> None:
    await world.start()
    await world.place("digits", "other")
    ready = ReplicaState.READY
    report = await world.report_is(("digits/0", ready), ("other/0", ready))
    replicas = {each.key: each.replica for each in report.replicas}
    async with asyncio.timeout(PATIENCE_S):
        while not await world.store.findings("digits-r"):
            await asyncio.sleep(0.02)
    await world.store.put_finding("digits-r", f"{own_environment()}/cpu", LOWERED)
    await eventually(lambda: LOWER in world.heard(replicas["digits/0"]))
    assert LOWERED.reason in world.heard(replicas["digits/0"])
    assert LOWER not in world.heard(replicas["other/0"])


@pytest.mark.parametrize("model", ["unlucky", "starved"])
async def test_what_a_replica_met_by_chance_is_reported_and_not_told_to_the_next(
    world: World, model: str
) -> None:
    await world.start()
    await world.place(model)
    before = await world.ready(f"{model}/0")
    async with asyncio.timeout(PATIENCE_S):
        while (await world.store.workers())[0].replicas[0].note != "not batched: by chance":
            await asyncio.sleep(0.02)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    after = await world.ready_anew(before)
    assert "by chance" not in world.heard(before.replica) + world.heard(after.replica)
    kept = await world.store.findings(f"{model}-r")
    assert not any(finding.chance for finding in kept.values())

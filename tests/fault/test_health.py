"""Replicas that hang, hold the interpreter, die or leave, in a whole system under load."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import pytest

from penstock.shared.contracts.deployment import ReplicaState, WorkerReport
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.e2e.folder import folder_system
from tests.e2e.system import LocalSystem, alive
from tests.fault.connections import Load, connect
from tests.support import mlflow_models as models

pytestmark = pytest.mark.alone

NAP_MS = 20.0
HOLD_MS = 8000.0
HOLD_TOO_MS = 5000.0
CLIENTS = 64
NOTICED_S = 2.0 + 1.0
"""Within two seconds, and what a busy machine may add."""

START_S = 60.0
DEADLINE_S = 10.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """One gateway, two workers, and two replicas of a model that sleeps as long as it is told."""
    base = tmp_path_factory.mktemp("health")
    system = folder_system(base, "--workers", "2")
    system.environment["PENSTOCK_DEFAULT_TIMEOUT_S"] = str(DEADLINE_S)
    (base / "models" / "m").mkdir(parents=True)
    models.napping(base / "models" / "m" / "1")
    (base / "models" / "m" / "tags.yaml").write_text("penstock.replicas: 2\n")
    try:
        system.start()
        asyncio.run(seen(system, 2, START_S))
        # Replicas are there before they are routed to: until registry_sync has heard from the
        # gateway that it can call them, the model answers that its version is loading.
        asyncio.run(both_ready(system, True, START_S))
        yield system
    finally:
        exit_code = system.stop()
    assert exit_code == 0, system.output


async def get(system: LocalSystem, path: str) -> tuple[int, str]:
    """GET a path of the gateway."""
    connection = await connect(system.port)
    connection.get(path)
    answer = await connection.answer()
    connection.leave()
    return answer.status, answer.body.decode()


async def metric(system: LocalSystem, name: str) -> int:
    """The sum of a metric of the gateway over its labels."""
    _, text = await get(system, "/metrics")
    return int(sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))))


async def callable_replicas(system: LocalSystem) -> int:
    """Replicas that the gateway could call now."""
    return await metric(system, "penstock_gateway_ready_replicas")


async def seen(system: LocalSystem, count: int, timeout_s: float) -> float:
    """Wait until the gateway could call that many replicas; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while await callable_replicas(system) != count:
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def readiness(system: LocalSystem) -> list[bool]:
    """Of the model, and of the gateway."""
    paths = ("/v2/models/m/ready", "/v2/health/ready")
    return [(await get(system, path))[0] == 200 for path in paths]


async def both_ready(system: LocalSystem, wanted: bool, timeout_s: float) -> None:
    """Wait until the model and the gateway say that they are ready, or not."""
    async with asyncio.timeout(timeout_s):
        while await readiness(system) != [wanted, wanted]:
            await asyncio.sleep(0.02)


async def workers(system: LocalSystem) -> list[WorkerReport]:
    """What the workers report."""
    store = RedisStateStore(system.system_file()["redis_url"], Keys())
    try:
        return list(await store.workers())
    finally:
        await store.close()


async def pids(system: LocalSystem) -> set[int]:
    """Processes of the ready replicas."""
    replicas = [each for worker in await workers(system) for each in worker.replicas]
    return {each.pid for each in replicas if each.state is ReplicaState.READY and each.pid}


async def two_pids(system: LocalSystem) -> list[int]:
    """Processes of both replicas, once there are two that can be called."""
    async with asyncio.timeout(START_S):
        while len(found := await pids(system)) != 2 or await callable_replicas(system) != 2:
            await asyncio.sleep(0.1)
    return sorted(found)


@asynccontextmanager
async def stopped(processes: Iterable[int]) -> AsyncIterator[None]:
    """SIGSTOP, and SIGCONT afterwards."""
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


async def test_a_stopped_replica_is_not_called_and_its_model_stays_ready(
    system: LocalSystem,
) -> None:
    before = await two_pids(system)
    async with Load(system.port, NAP_MS).running(8):
        async with stopped(before[:1]):
            await seen(system, 1, NOTICED_S)
            assert await readiness(system) == [True, True]
            await asyncio.sleep(1.0)
            assert await callable_replicas(system) == 1
        await seen(system, 2, NOTICED_S)
    assert await two_pids(system) == before


async def test_readiness_tells_the_truth_while_all_replicas_are_stopped(
    system: LocalSystem,
) -> None:
    before = await two_pids(system)
    await asyncio.sleep(2.0)
    assert await readiness(system) == [True, True], "nothing to do is not silence"
    async with stopped(before):
        await both_ready(system, False, NOTICED_S)
        await asyncio.sleep(1.5)  # long enough for their connections to be given up
        assert await readiness(system) == [False, False]
    await both_ready(system, True, NOTICED_S)
    assert await two_pids(system) == before


async def test_a_model_that_holds_the_interpreter_is_left_alone_and_comes_back(
    system: LocalSystem,
) -> None:
    before = await two_pids(system)
    holder, other = await connect(system.port), await connect(system.port)
    holding = asyncio.create_task(holder.ask(-HOLD_MS))
    await seen(system, 1, NOTICED_S)
    for _ in range(20):
        assert (await other.ask(1.0)).status == 200
    assert await readiness(system) == [True, True]
    assert await callable_replicas(system) == 1
    other.send(-HOLD_TOO_MS)
    await both_ready(system, False, NOTICED_S)  # although both are connected
    assert not holding.done(), "the calls since went to the other one"
    assert (await holding).status == 200
    assert (await other.answer()).status == 200
    await both_ready(system, True, NOTICED_S)
    await seen(system, 2, NOTICED_S)
    assert await two_pids(system) == before, "it was not killed"
    holder.leave()
    other.leave()


async def test_a_killed_replica_fails_nobody_and_is_replaced(system: LocalSystem) -> None:
    before = await two_pids(system)
    load = Load(system.port, NAP_MS)
    async with load.running(CLIENTS):
        await asyncio.sleep(0.5)
        os.kill(before[0], signal.SIGKILL)
        await asyncio.sleep(1.0)
        after = await two_pids(system)
    assert before[0] not in after
    assert before[1] in after
    assert load.slowest_s < DEADLINE_S


async def test_without_any_replica_readiness_is_false_until_they_are_replaced(
    system: LocalSystem,
) -> None:
    before = await two_pids(system)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await both_ready(system, False, NOTICED_S)
    await both_ready(system, True, START_S)
    assert not set(await two_pids(system)) & set(before)


async def test_a_worker_that_is_told_to_leave_hands_over_and_fails_nobody(
    system: LocalSystem,
) -> None:
    await two_pids(system)
    agent = system.system_file()["processes"]["worker-0"]
    (leaving,) = [each for each in await workers(system) if each.pid == agent]
    theirs = {each.pid for each in leaving.replicas}
    lost = await metric(system, "penstock_dispatch_lost_total")
    announced, fewest = False, 2
    load = Load(system.port, NAP_MS)
    async with load.running(16):
        await asyncio.sleep(0.5)
        os.kill(agent, signal.SIGTERM)
        async with asyncio.timeout(START_S):
            while alive(agent):
                announced |= any(each.draining for each in await workers(system))
                fewest = min(fewest, await callable_replicas(system))
        after = await two_pids(system)
    assert announced
    assert fewest == 2, "substitutes came first"
    assert not set(after) & theirs
    assert await metric(system, "penstock_dispatch_lost_total") == lost, "it answered what it had"
    assert "worker-0: exit status 0" in system.output

"""What one replica finds out at run time holds for all of its revision, in whichever worker."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.findings import Finding
from penstock.shared.process.clock import SystemClock
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from penstock.worker.agent.agent import Agent
from penstock.worker.agent.devices import Machine
from penstock.worker.control.agent_end import ProcessSpawner
from tests.support import mlflow_models as models
from tests.support.agent_plane import LOAD_S, MODEL, AgentPlane, agent_plane
from tests.unit.worker.agent_bench import FakeArtifacts, NoEnvironments, deployment, settings

OTHER = "node-worker-1"
LOWERED_S = 10.0
"""Within so much all have taken it over; they hear of it at once, or at the next poll (0.1 s)."""


async def notes(plane: AgentPlane) -> list[str]:
    """What the operator is told of each replica, of all workers."""
    reports = await plane.store.workers()
    return [replica.note for report in reports for replica in report.replicas]


async def all_noted(plane: AgentPlane, count: int) -> None:
    """Wait until so many replicas tell that they are not batched."""
    async with asyncio.timeout(LOWERED_S):
        while [note[:11] for note in await notes(plane)] != ["not batched"] * count:
            await asyncio.sleep(0.02)


async def a_row_too_few(plane: AgentPlane) -> None:
    """Have one replica see that the model cannot be batched."""
    inputs = (tensor_from_array("input-0", np.array([79.0])),)
    answer = await plane.service.infer(InferenceCall(MODEL, None, inputs, timeout_s=60.0))
    assert array_from_tensor(answer.outputs[0]).size == 0


async def infer_many(plane: AgentPlane) -> None:
    numbers = [float(number) for number in range(1, 41)]
    answers = await asyncio.gather(*map(plane.infer, numbers))
    assert answers == [10 * number for number in numbers]


async def test_other_replicas_of_the_worker_are_not_batched_either(tmp_path: Path) -> None:
    async with agent_plane(models.moody(tmp_path / "m"), 2, ReplicaSettings(threads=1)) as plane:
        assert plane.service.metadata(MODEL, None).interface.max_batch_size == 32
        assert await notes(plane) == ["", ""]
        await infer_many(plane)
        await a_row_too_few(plane)
        assert plane.service.metadata(MODEL, None).interface.max_batch_size == 0
        await all_noted(plane, 2)
        await infer_many(plane)


async def test_replicas_of_other_workers_are_not_batched_either_and_none_loads_as_before(
    tmp_path: Path,
) -> None:
    folder = models.moody(tmp_path / "m")
    async with agent_plane(folder, 1, ReplicaSettings(threads=1)) as plane:
        other = Agent(
            settings=settings(worker=OTHER, heartbeat_interval_s=0.5),
            machine=Machine(cores=2, memory_bytes=1 << 30, devices=("cpu",)),
            store=plane.store,
            artifacts=FakeArtifacts(folder),
            environments=NoEnvironments(),
            spawner=ProcessSpawner(environment={"PENSTOCK_LOG_LEVEL": "warning"}),
            clock=SystemClock(),
        )
        task = asyncio.create_task(other.run())
        try:
            await place_on_both(plane)
            async with asyncio.timeout(LOAD_S):
                while sum(plane.service.ready_counts().values()) < 2:
                    await asyncio.sleep(0.05)
            await a_row_too_few(plane)
            await all_noted(plane, 2)
            await infer_many(plane)
            (kept,) = (await plane.store.findings(f"{MODEL}-r")).values()
            assert isinstance(kept, Finding)
            assert kept.rows_merged == 0
        finally:
            other.stop()
            other.stop()
            await task


async def place_on_both(plane: AgentPlane) -> None:
    """Place a replica on the other worker too."""
    lease = await plane.store.acquire_lease("test", 3600)
    assert lease is not None
    before = await plane.store.deployment()
    (place,) = deployment([MODEL], 1).placement
    place = place.model_copy(update={"worker": OTHER, "key": f"{MODEL}/1"})
    placement = (*before.placement, place)
    after = before.model_copy(update={"placement": placement, "serial": before.serial + 1})
    await plane.store.apply(lease, after, await plane.store.routing())

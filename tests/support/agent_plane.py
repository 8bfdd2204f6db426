"""A gateway's service and a worker agent in this process, with real replica processes; no Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.deployment import (
    GatewayReport,
    ReplicaReport,
    ReplicaSettings,
    ReplicaState,
)
from penstock.shared.process.clock import SystemClock
from penstock.shared.wire.tensors import array_from_tensor, tensor_from_array
from penstock.worker.agent.agent import Agent
from penstock.worker.agent.devices import Machine
from penstock.worker.agent.job_losses import Losses
from penstock.worker.control.agent_end import ProcessSpawner
from tests.support.data_plane import DataPlane, data_plane
from tests.support.memory_store import MemoryStateStore
from tests.support.waiting import eventually
from tests.unit.worker.agent_bench import (
    FakeArtifacts,
    NoEnvironments,
    deployment,
    routing,
    settings,
)

MODEL = "m"
LOAD_S = 90.0
"""Several replicas import MLflow at once on a busy machine."""


class AgentPlane:
    """Replicas of one model, looked after by an agent, and the service that calls them."""

    def __init__(self, plane: DataPlane, store: MemoryStateStore, agent: Agent) -> None:
        self.agent = agent
        self.service = plane.service
        self.store = store

    async def replicas(self) -> tuple[ReplicaReport, ...]:
        """What the agent reports."""
        for worker in await self.store.workers():
            return worker.replicas
        return ()

    async def restarts(self) -> int:
        """How many replicas were replaced so far."""
        return sum(replica.restarts for replica in await self.replicas())

    async def restarted(self, count: int) -> None:
        """Wait until so many replicas were replaced after crashes, and no more."""
        async with asyncio.timeout(LOAD_S):
            while await self.restarts() < count:
                await asyncio.sleep(0.05)
        assert await self.restarts() == count

    async def kills(self) -> dict[str, float]:
        """How many replicas the agent had to kill so far, by reason; by its metrics."""
        (worker,) = await self.store.workers()
        url = f"http://127.0.0.1:{worker.metrics_port}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read())
        return {
            sample.labels["reason"]: sample.value
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
            if sample.name == "penstock_replica_kills_total" and sample.value
        }

    async def all_ready(self, count: int) -> tuple[ReplicaReport, ...]:
        """Wait until so many replicas are ready, for the agent and for the gateway."""
        async with asyncio.timeout(LOAD_S):
            while True:
                replicas = await self.replicas()
                if [one.state for one in replicas] == [ReplicaState.READY] * count:
                    break
                await asyncio.sleep(0.05)
        await eventually(lambda: sum(self.service.ready_counts().values()) == count)
        return replicas

    async def infer(self, number: float, timeout_s: float = 60.0) -> float:
        """Call the model with one number."""
        inputs = (tensor_from_array("input-0", np.array([number])),)
        answer = await self.service.infer(InferenceCall(MODEL, None, inputs, timeout_s=timeout_s))
        return float(array_from_tensor(answer.outputs[0])[0])


@contextlib.asynccontextmanager
async def agent_plane(
    folder: Path,
    count: int,
    replica_settings: ReplicaSettings,
    losses: Losses | None = None,
    **changes: object,
) -> AsyncIterator[AgentPlane]:
    """So many replicas of the model in `folder`, all of them ready; all ended afterwards.

    Args:
        losses: what the agent tells of replicas that die.
        changes: to the agent's settings.
    """
    store = MemoryStateStore(SystemClock())
    async with data_plane() as plane:
        gateway = GatewayReport(
            gateway="g", incarnation="g-1", node="n", pid=os.getpid(), endpoint=plane.endpoint
        )
        await store.report_gateway(gateway, 3600, notify=False)
        lease = await store.acquire_lease("test", 3600)
        assert lease is not None
        desired = deployment([MODEL], 1, replicas=count)
        (name,) = desired.revisions
        revision = desired.revisions[name].model_copy(update={"settings": replica_settings})
        desired = desired.model_copy(update={"revisions": {name: revision}})
        await store.apply(lease, desired, routing([MODEL], 1))
        agent = Agent(
            settings=settings(heartbeat_interval_s=0.5, metrics_port=0, **changes),
            machine=Machine(cores=2, memory_bytes=1 << 30, devices=("cpu",)),
            store=store,
            artifacts=FakeArtifacts(folder),
            environments=NoEnvironments(),
            spawner=ProcessSpawner(environment={"PENSTOCK_LOG_LEVEL": "warning"}),
            clock=SystemClock(),
            losses=losses,
        )
        task = asyncio.create_task(agent.run())
        try:
            live = AgentPlane(plane, store, agent)
            await live.all_ready(count)
            yield live
        finally:
            agent.stop()
            agent.stop()  # at once
            await task

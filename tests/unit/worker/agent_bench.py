"""What tests of the agent share; run as a program, it is an agent by itself."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    Deployment,
    Phase,
    ReplicaPlacement,
    ReplicaSettings,
    RevisionDeployment,
)
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import ModelRoute, RoutingTable, VersionRoute
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.lifecycle import adopt_orphans
from penstock.worker.agent.agent import Agent
from penstock.worker.agent.devices import Machine
from penstock.worker.control.agent_end import ProcessSpawner
from penstock.worker.settings import WorkerSettings
from tests.support.memory_store import MemoryStateStore

WORKER = "node-worker-0"
PATIENCE_S = 15.0
"""How long a test waits for what must come."""

FAKE_REPLICA = (sys.executable, str(Path(__file__).with_name("fake_replica.py")))


def settings(**changes: object) -> WorkerSettings:
    """Settings with short intervals and no metrics endpoint."""
    values: dict[str, object] = {
        "worker": WORKER,
        "state_poll_s": 0.1,
        "report_interval_s": 0.1,
        "heartbeat_interval_s": 0.05,
        "drain_grace_s": 5.0,
        "metrics_port": -1,
        **changes,
    }
    return WorkerSettings.model_validate(values)


def deployment(
    models: Iterable[str],
    serial: int,
    *,
    replicas: int = 1,
    environment: Literal["inherit", "isolated"] = "inherit",
) -> Deployment:
    """Every model with one revision, each with so many replicas on the worker under test."""
    models = list(models)
    revisions = {
        f"{model}-r": RevisionDeployment(
            model=model,
            version="1",
            revision=f"{model}-r",
            source=ArtifactSource(uri=f"models:/{model}/1", tracking_uri="http://mlflow"),
            manifest=ArtifactManifest(files=()),
            settings=ReplicaSettings(environment=environment),
            phase=Phase.SERVING,
        )
        for model in models
    }
    placement = tuple(
        ReplicaPlacement(
            key=f"{model}/{index}",
            model=model,
            version="1",
            revision=f"{model}-r",
            worker=WORKER,
            device="auto",
        )
        for model in models
        for index in range(replicas)
    )
    return Deployment(revisions=revisions, placement=placement, serial=serial)


def routing(models: Iterable[str], generation: int) -> RoutingTable:
    """Routes to the revision of each model."""
    return RoutingTable(
        generation=generation,
        models={
            model: ModelRoute(
                model=model,
                generation=generation,
                versions=(VersionRoute(version="1", revision=f"{model}-r"),),
            )
            for model in models
        },
    )


class FakeArtifacts:
    """A cache that has everything, but what `missing` names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.missing: set[str] = set()
        self.kept: frozenset[str] = frozenset()

    async def get(self, manifest: ArtifactManifest, source: ArtifactSource) -> Path:
        if source.uri in self.missing:
            raise PenstockError(ErrorCode.UNAVAILABLE, "MLflow is away")
        return self.folder

    def keep_only(self, digests: Collection[str]) -> None:
        self.kept = frozenset(digests)


class NoEnvironments:
    """For models that inherit theirs."""

    def interpreter(self, model: Path) -> str:
        raise KeyError(model)

    def digest(self, model: Path) -> str:
        raise KeyError(model)

    async def prepare(self, model: Path) -> None:
        raise PenstockError(ErrorCode.INTERNAL, f"no environment for {model}")

    def keep_only(self, digests: Collection[str]) -> None:
        pass


def make_agent(
    store: MemoryStateStore,
    artifacts: FakeArtifacts,
    log: Path,
    adopts: bool = False,
    **changes: object,
) -> Agent:
    """An agent whose replicas are fakes.

    Args:
        adopts: it has the process to itself, so that all orphans are of its replicas.
        changes: to its settings.
    """
    return Agent(
        settings=settings(**changes),
        machine=Machine(cores=8, memory_bytes=1 << 30, devices=("cpu",)),
        store=store,
        artifacts=artifacts,
        environments=NoEnvironments(),
        spawner=ProcessSpawner(FAKE_REPLICA, {"FAKE_REPLICA_LOG": str(log)}, adopts=adopts),
        clock=SystemClock(),
    )


def lives(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def _alone(log: Path, models: list[str]) -> None:
    store = MemoryStateStore(SystemClock())
    lease = await store.acquire_lease("test", 60)
    assert lease is not None
    await store.apply(lease, deployment(models, 1), routing(models, 1))
    await make_agent(store, FakeArtifacts(log), log, adopts=True).run()


if __name__ == "__main__":
    adopt_orphans()
    asyncio.run(_alone(Path(sys.argv[1]), sys.argv[2:]))

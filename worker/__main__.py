"""Entry of a worker process: puts the agent together from its settings and runs it.

Next stop: `penstock.worker.agent.agent`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import setproctitle

from penstock.shared.artifacts.cache import ArtifactCache
from penstock.shared.jobs import calls
from penstock.shared.jobs.blobs import BlobStore
from penstock.shared.jobs.store import JobStore
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.lifecycle import adopt_orphans, die_with_parent
from penstock.shared.process.telemetry import configure_logging
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from penstock.shared.wire.curve import read_worker_keys
from penstock.worker.agent.agent import Agent
from penstock.worker.agent.devices import discover
from penstock.worker.agent.findings import Findings
from penstock.worker.agent.job_losses import Losses
from penstock.worker.control.agent_end import ProcessSpawner
from penstock.worker.environments.cache import Environments
from penstock.worker.settings import WorkerSettings


def run_with(settings: WorkerSettings) -> None:
    """Run a worker until it is told to leave by SIGTERM or SIGINT.

    Call it from the main thread: replicas end with the thread that spawns them.

    Raises:
        OSError: if the metrics port or the cache folder cannot be had.
        KeysError: if the folder of keys lacks one, or shows one to everyone.
        PenstockError: if the URL of the blob store cannot be used.
    """
    die_with_parent()
    adopt_orphans()  # a model's processes outlive their replica by a moment, and never us
    setproctitle.setproctitle(f"penstock worker {settings.worker}")
    configure_logging(
        settings.log_level, settings.log_format, process="worker", worker=settings.worker
    )
    asyncio.run(_run(settings))


async def _run(settings: WorkerSettings) -> None:
    if settings.keys_dir is not None:
        read_worker_keys(settings.keys_dir)  # a mistake is told here, not by each replica
    if settings.blobs_url:
        BlobStore(settings.blobs_url, settings.namespace)  # likewise
    logs = {"PENSTOCK_LOG_LEVEL": settings.log_level, "PENSTOCK_LOG_FORMAT": settings.log_format}
    keys = Keys(settings.namespace)
    store, jobs = RedisStateStore(settings.redis_url, keys), JobStore(settings.redis_url, keys)

    async def lose(replica: str, begun: Collection[str] | None) -> int:
        lost = await jobs.run(calls.lose(replica, begun))
        return len(lost)

    # Replicas are told absolute paths: nothing says that they share our working folder.
    artifacts = ArtifactCache(
        settings.cache_dir.resolve(), settings.cache_max_bytes, settings.fetch_timeout_s
    )
    environments = Environments(
        settings.cache_dir.resolve() / "environments",
        settings.environments_max,
        settings.environment_installer,
    )
    machine = discover()
    agent = Agent(
        settings=settings,
        machine=machine,
        store=store,
        artifacts=artifacts,
        environments=environments,
        spawner=ProcessSpawner(environment=logs, adopts=True),
        clock=SystemClock(),
        losses=Losses(lose),
        findings=Findings(store, settings.cache_dir.resolve() / "findings", machine.devices),
    )
    try:
        await agent.run()
    finally:
        await store.close()
        await jobs.close()


if __name__ == "__main__":
    run_with(WorkerSettings())

"""Entry of a registry_sync process: puts the daemon together from its settings and runs it.

Next stop: `registry_sync.controller`.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from setproctitle import setproctitle

from registry_sync.controller import Controller
from registry_sync.mlflow_source import MlflowSource, configure_client
from registry_sync.settings import SyncSettings
from shared.artifact_cache import ArtifactCache
from shared.clock import SystemClock
from shared.ids import new_incarnation
from shared.keys import Keys
from shared.lifecycle import die_with_parent
from shared.state_store import RedisStateStore
from shared.telemetry import configure_logging


def run_with(settings: SyncSettings) -> None:
    """Run a daemon until it is told to leave by SIGTERM or SIGINT.

    Call it from the main thread: the processes that fetch artifacts end with the thread that
    spawned them.
    """
    die_with_parent()
    setproctitle("penstock registry-sync")
    configure_logging(settings.log_level, settings.log_format, process="registry-sync")
    # It warns of every retry of MLflow's client; we say once that the registry is away.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    configure_client(settings.mlflow_timeout_s)
    asyncio.run(run(settings))


async def run(settings: SyncSettings) -> None:
    """Run a daemon until SIGTERM or SIGINT; the lease is free for a standby at once."""
    store = RedisStateStore(settings.redis_url, Keys(settings.namespace))
    controller = Controller(
        settings=settings,
        store=store,
        source=MlflowSource(settings.mlflow_uri, settings.stable_aliases),
        artifacts=ArtifactCache(
            settings.cache_dir, settings.cache_max_bytes, settings.download_timeout_s
        ),
        clock=SystemClock(),
        holder=new_incarnation("registry-sync"),
    )
    running = asyncio.create_task(controller.run())
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, running.cancel)
    try:
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()
    finally:
        await store.close()


def main() -> None:
    """Run with settings from the environment."""
    run_with(SyncSettings())


if __name__ == "__main__":
    main()

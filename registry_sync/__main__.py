"""Entry of a registry_sync process: puts the daemon together from its settings and runs it.

Next stop: `penstock.registry_sync.daemon.controller`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress

from setproctitle import setproctitle

from penstock.registry_sync.daemon.controller import Controller
from penstock.registry_sync.daemon.metrics import SyncCollector
from penstock.registry_sync.daemon.presence import report_presence
from penstock.registry_sync.daemon.registry_metrics import RegistryCollector
from penstock.registry_sync.daemon.supervision import keep_running
from penstock.registry_sync.plan.statuses import for_report
from penstock.registry_sync.settings import SyncSettings
from penstock.registry_sync.sources.choice import maker_of
from penstock.shared.artifacts.cache import ArtifactCache
from penstock.shared.contracts.deployment import SyncReport
from penstock.shared.contracts.ids import new_incarnation, node_name
from penstock.shared.metrics.endpoint import process_registry, serve_metrics
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.lifecycle import die_with_parent
from penstock.shared.process.telemetry import configure_logging
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore

CLOSE_TIMEOUT_S = 2.0
"""Longest wait for the store's connections to close; the process ends anyway."""


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
    asyncio.run(run(settings))


async def run(settings: SyncSettings) -> None:
    """Run a daemon until SIGTERM or SIGINT; the lease is free for a standby at once.

    Raises:
        OSError: if the metrics port cannot be had.
    """
    holder = new_incarnation("registry-sync")
    clock = SystemClock()
    make_source = maker_of(settings, clock)
    store = RedisStateStore(settings.redis_url, Keys(settings.namespace))
    controller = Controller(
        settings=settings,
        store=store,
        make_source=make_source,
        artifacts=ArtifactCache(
            settings.cache_dir, settings.cache_max_bytes, settings.download_timeout_s
        ),
        clock=clock,
        holder=holder,
    )
    registry = process_registry()
    registry.register(SyncCollector(controller.counts, controller))
    registry.register(RegistryCollector(controller))
    metrics_port = serve_metrics(registry, settings.metrics_host, settings.metrics_port)

    def report() -> SyncReport:
        statuses, left_out = for_report(controller.told)
        return SyncReport(
            sync=holder,
            node=node_name(),
            pid=os.getpid(),
            metrics_port=metrics_port,
            statuses=statuses,
            statuses_left_out=left_out,
            troubles=controller.lasting_troubles,
        )

    interval_s, ttl_s = settings.report_interval_s, settings.report_ttl_s
    presence = asyncio.create_task(
        keep_running(
            "presence",
            lambda: report_presence(store, report, interval_s, ttl_s, controller.troubles),
            controller.troubles,
        )
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
        presence.cancel()
        await asyncio.wait({presence})
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await store.close()


def main() -> None:
    """Run with settings from the environment."""
    run_with(SyncSettings())


if __name__ == "__main__":
    main()

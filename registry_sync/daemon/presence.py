"""Tells the control plane that this daemon is there, where its metrics are, and what became of
the versions, for who asks the store and not the registry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.registry_sync.daemon.troubles import Troubles
from penstock.shared.contracts.deployment import SyncReport
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.process.waits import forget_report
from penstock.shared.store.state import StateStore


async def report_presence(
    store: StateStore,
    report: Callable[[], SyncReport],
    interval_s: float,
    ttl_s: float,
    troubles: Troubles,
) -> None:
    """Report until cancelled, then no more. Without the store, try again later."""
    try:
        while True:
            try:
                async with asyncio.timeout(ttl_s):  # a report that comes later is of no use
                    await store.report_sync(report(), ttl_s)
                troubles.over("presence")
            except StateStoreError as error:
                troubles.tell("presence", error.message)
            except TimeoutError:
                troubles.tell("presence", f"timed out after {ttl_s:g} s (state store)")
            await asyncio.sleep(interval_s)
    finally:
        await forget_report(store.forget_sync(report().sync))

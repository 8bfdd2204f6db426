"""Waits until calls can reach what is ready: a replica is ready before its version is routed."""

from __future__ import annotations

import asyncio

from penstock.shared.store.state import StateStore


async def until_routed(store: StateStore, timeout_s: float) -> None:
    """Wait until every gateway goes by a table in which every model has a version."""
    async with asyncio.timeout(timeout_s):
        while True:
            table, gateways = await store.routing(), await store.gateways()
            routed = bool(table.models) and all(route.versions for route in table.models.values())
            if routed and all(each.generation == table.generation for each in gateways):
                return
            await asyncio.sleep(0.1)

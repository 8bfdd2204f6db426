"""`penstock status`: what the state store says of a system, as tables or as JSON."""

from __future__ import annotations

import asyncio
from pathlib import Path

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.tables import table_console
from penstock.deploy.local.status.document import StoreStatus, SystemStatus, summary_of
from penstock.deploy.local.status.tables import print_tables
from penstock.deploy.local.status.verdict import exit_code
from penstock.deploy.local.system.system_file import read_system
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs.store import durability_at
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore


async def read_status(redis_url: str, namespace: str) -> SystemStatus:
    """What the store says now.

    Raises:
        StateStoreError: if it does not answer.
    """
    store = RedisStateStore(redis_url, Keys(namespace))
    try:
        status = await summary_of(store)
    finally:
        await store.close()
    status.store = StoreStatus(durability=await durability_at(redis_url))
    return status


def run_status(
    data_dir: Path, redis_url: str | None, namespace: str, as_json: bool, judged: bool
) -> int:
    """Print the status; returns the exit code: that of `verdict` if it is to be judged, else 0.

    Raises:
        CommandError: if no system is found.
    """
    if redis_url is None:
        system = read_system(data_dir)
        redis_url, namespace = system.redis_url, system.namespace
    try:
        status = asyncio.run(read_status(redis_url, namespace))
    except (StateStoreError, ValueError) as error:
        raise CommandError(f"the state store does not answer: {error}") from error
    if as_json:
        print(status.model_dump_json(indent=2))
    else:
        print_tables(status, table_console())
    return exit_code(status) if judged else 0

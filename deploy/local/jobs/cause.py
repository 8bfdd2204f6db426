"""What a job's model raised, out of the state store: gateways do not tell, as clients ask them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from penstock.deploy.local.cli.failures import CommandError
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys


@dataclass(frozen=True)
class StorePlace:
    """Where the jobs' store is."""

    redis_url: str
    namespace: str


async def _cause_at(place: StorePlace, job_id: str) -> str:
    store = JobStore(place.redis_url, Keys(place.namespace))
    try:
        view = await store.run(calls.get(job_id))
    finally:
        await store.close()
    return view.record.error_cause if view is not None else ""


def read_cause(place: StorePlace, job_id: str) -> str:
    """The exception's type and first line; empty if its last attempt raised nothing.

    Raises:
        CommandError: if the store does not answer.
    """
    try:
        return asyncio.run(_cause_at(place, job_id))
    except (StateStoreError, ValueError) as error:
        raise CommandError(f"the state store does not answer: {error}") from error

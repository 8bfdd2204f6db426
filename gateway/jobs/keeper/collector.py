"""Erases jobs that have had their time, and deletes what they left in the blob store.

A blob of an erased job stays in the store's garbage until it was reported as deleted. What nobody
refers to, since its writer died or its lease was lost, is an orphan: it goes with its job's id,
once the job is gone and it is old.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from penstock.gateway.jobs.keeper.outages import LoopOutage
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.calls import STEP_JOBS
from penstock.shared.jobs.store import JobStore
from penstock.shared.process.blocking import in_thread
from penstock.shared.process.telemetry import get_logger

log = get_logger("jobs")


class SweptBlobs(Protocol):
    """What is needed of `penstock.shared.jobs.blobs.BlobStore`; raises `StateStoreError`."""

    def delete(self, names: Sequence[str]) -> list[str]:
        """Delete blobs; returns those that are gone now."""
        ...

    def sweep(self, older_than_s: float, known: Callable[[str], bool]) -> int:
        """Delete old blobs of jobs that are not known; returns how many."""
        ...


class JobCollector:
    """See the module's docstring.

    Args:
        store: of the jobs.
        blobs: None: there are none.
        is_known: whether there is a job of an id; blocks, and raises `StateStoreError`.
        collect_s: how often.
        sweep_s: how often orphans are looked for.
        orphan_age_s: how old they are at least.
    """

    def __init__(
        self,
        store: JobStore,
        blobs: SweptBlobs | None,
        is_known: Callable[[str], bool],
        collect_s: float,
        sweep_s: float,
        orphan_age_s: float,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._is_known = is_known
        self._collect_s = collect_s
        self._sweep_s = sweep_s
        self._orphan_age_s = orphan_age_s
        self._warned = False

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._forever("erasing jobs", self._erase))
            tasks.create_task(self._forever("deleting blobs of jobs", self._empty))
            if self._blobs is not None:
                tasks.create_task(self._sweep_forever(self._blobs))

    async def _forever(self, what: str, step: Callable[[], Awaitable[int]]) -> None:
        """Go step by step, without a pause as long as steps are full."""
        outage = LoopOutage(what)
        while True:
            try:
                pause_s = 0.0 if await step() == STEP_JOBS else self._collect_s
                outage.worked()
            except StateStoreError as error:
                pause_s = outage.pause_after(error)
            await asyncio.sleep(pause_s)

    async def _erase(self) -> int:
        """Erase some jobs; returns how many."""
        return (await self._store.run(calls.collect(blobs=0))).erased

    async def _empty(self) -> int:
        """Delete some blobs, and report those that are gone; returns how many."""
        blobs = self._blobs
        names = list((await self._store.run(calls.collect(most=0))).blobs)
        if not names:
            return 0
        if blobs is None:
            self._warn(len(names))
            return 0
        random.shuffle(names)  # some may fail every time, and after a few nothing is tried
        gone = await in_thread(lambda: blobs.delete(names))
        await self._store.run(calls.swept(gone))
        return len(gone)

    def _warn(self, count: int) -> None:
        if not self._warned:
            self._warned = True
            log.warning("blobs of erased jobs stay: no blob store is set", blobs=count)

    async def _sweep_forever(self, blobs: SweptBlobs) -> None:
        outage = LoopOutage("looking for orphaned blobs")
        while True:
            # Gateways that were started together need not look together.
            await asyncio.sleep(self._sweep_s * random.uniform(0.5, 1.0))
            try:
                swept = await in_thread(lambda: blobs.sweep(self._orphan_age_s, self._is_known))
                outage.worked()
            except StateStoreError as error:
                outage.pause_after(error)
            else:
                if swept:
                    log.info("orphaned blobs deleted", blobs=swept)

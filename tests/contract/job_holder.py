"""A stand-in for a replica that runs jobs: calls of the store, and a model as a function."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import JobWithBytes
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.payload import RESULT_TYPE, JobInput, JobResult, pack_result, unpack_input
from penstock.shared.jobs.record import Content
from penstock.shared.jobs.store import JobStore
from penstock.shared.wire.messages import Final
from penstock.shared.wire.tensors import Tensor

Model = Callable[[JobInput], tuple[Tensor, ...]]

LEASE_MS = 60_000


class Holder:
    """Leases and finishes jobs of one queue."""

    def __init__(self, store: JobStore, model: str, revision: str, run: Model) -> None:
        self._store = store
        self._queue = model, revision
        self._run = run
        self.executed: list[str] = []

    async def lease(self) -> JobWithBytes:
        """The next job; waits until there is one."""
        while True:
            request = new_job_id()
            leased = await self._store.run(
                calls.lease(*self._queue, "holder", request, most=1, lease_ms=LEASE_MS, idle=True)
            )
            if leased.jobs:
                return leased.jobs[0]
            await asyncio.sleep(0.01)

    async def finish(self, job: JobWithBytes, *, payload: bytes | None = None) -> None:
        """Execute a job and commit its result."""
        found = job.record
        body = payload if payload is not None else job.body
        assert body is not None
        job_input = unpack_input(body)
        final = Final(0, self._run(job_input), None, queue_us=1000, infer_us=2000, batch_rows=1)
        result = pack_result(JobResult(job_input.client_id, final))
        self.executed.append(found.id)
        content = Content(RESULT_TYPE, len(result))
        await self._store.run(calls.commit(found.id, found.token, content, result))

    async def fail(self, job: JobWithBytes, code: str, message: str, cause: str = "") -> None:
        """End a job with an error that no attempt can help."""
        told = (job.record.id, job.record.token, code, message)
        await self._store.run(calls.fail(*told, retryable=False, cause=cause))

    async def serve(self) -> None:
        """Run jobs until cancelled."""
        while True:
            await self.finish(await self.lease())

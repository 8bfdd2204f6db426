"""A job store's server in front of real replica processes; jobs are submitted and watched here."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import JobView, Submitted
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.payload import INPUT_TYPE, JobInput, pack_input, unpack_result
from penstock.shared.jobs.record import FINISHED, Content, JobRecord, JobState, NewJob
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from penstock.worker.agent.job_losses import Losses
from penstock.worker.control.messages import JobsStart
from tests.contract.redis_server import Server
from tests.support.agent_plane import AgentPlane, agent_plane
from tests.support.data_plane import DataPlane, ReplicaChild, data_plane

KEYS = Keys("test")
MODEL, REVISION = "m", "m/1"
PATIENCE_S = 60.0


class JobBench:
    """A store with jobs; made by `job_bench`.

    Args:
        revision: whose queue they wait in.
    """

    def __init__(self, server: Server, store: JobStore, revision: str) -> None:
        self.server = server
        self.store = store
        self.revision = revision

    async def submit(self, array: AnyArray, **changes: Any) -> str:
        """Submit a job; its id."""
        return (await self.submit_all([array], **changes))[0]

    async def submit_all(self, arrays: Sequence[AnyArray], **changes: Any) -> list[str]:
        """Submit jobs; their ids."""
        answers = await self.store.run_many(
            [_submit(array, revision=self.revision, **changes) for array in arrays]
        )
        return [answer.id for answer in answers if isinstance(answer, Submitted)]

    async def record(self, job_id: str) -> JobRecord:
        """A job as it is now."""
        view = await self.store.run(calls.get(job_id))
        assert isinstance(view, JobView)
        return view.record

    async def until_state(self, job_id: str, *states: JobState) -> JobRecord:
        """Wait until a job is in one of these states."""
        return await self.until(job_id, lambda record: record.state in states)

    async def finished(self, job_id: str) -> JobRecord:
        """Wait until a job is over."""
        return await self.until(job_id, lambda record: record.state in FINISHED)

    async def result(self, job_id: str) -> AnyArray:
        """Wait for a job's result: its first output."""
        record = await self.finished(job_id)
        assert record.state is JobState.SUCCEEDED, record
        found = await self.store.run(calls.result(job_id))
        assert found is not None
        assert found.body is not None
        return array_from_tensor(unpack_result(found.body).final.outputs[0])

    async def until(self, job_id: str, holds: Callable[[JobRecord], bool]) -> JobRecord:
        """Wait until something holds of a job."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds(record := await self.record(job_id)):
            assert time.monotonic() < deadline, record
            await asyncio.sleep(0.02)
        return record


class JobPlane(JobBench):
    """Replicas that run jobs, and the service of a gateway; made by `job_plane`."""

    def __init__(self, bench: JobBench, plane: DataPlane) -> None:
        super().__init__(bench.server, bench.store, bench.revision)
        self.plane = plane

    async def join(
        self, folder: Path, settings: ReplicaSettings | None = None, **changes: Any
    ) -> ReplicaChild:
        """Start a replica that runs jobs, and wait until it is ready.

        Args:
            changes: to `JobsStart`.
        """
        start = JobsStart(redis_url=self.server.url, namespace=KEYS.namespace, **changes)
        return await self.plane.join(folder, settings=settings, jobs=start)


def _submit(
    array: AnyArray, *, name: str = "x", revision: str = REVISION, **changes: Any
) -> Call[Submitted]:
    inputs = (tensor_from_array(name, array),)
    body = pack_input(JobInput("", Request(0, 0, inputs)))
    job = NewJob(id=new_job_id(), model=MODEL, version="1", revision=revision, **changes)
    return calls.submit(job, Content(INPUT_TYPE, len(body)), body)


@contextlib.asynccontextmanager
async def job_bench(revision: str = REVISION) -> AsyncIterator[JobBench]:
    """A job store and its server, ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), appendfsync="always")
        server.start()
        store = JobStore(server.url, KEYS)
        try:
            yield JobBench(server, store, revision)
        finally:
            await store.close()
            server.kill()


@contextlib.asynccontextmanager
async def looked_after(
    folder: Path, count: int, settings: ReplicaSettings, **changes: object
) -> AsyncIterator[tuple[JobBench, AgentPlane]]:
    """So many replicas that their agent replaces, and tells the store of when they die.

    Args:
        changes: to the agent's settings.
    """
    async with job_bench("m-r") as bench:

        async def lose(replica: str, begun: Collection[str] | None) -> int:
            lost = await bench.store.run(calls.lose(replica, begun))
            return len(lost)

        store = {"redis_url": bench.server.url, "namespace": KEYS.namespace}
        async with agent_plane(folder, count, settings, Losses(lose), **store, **changes) as plane:
            yield bench, plane


@contextlib.asynccontextmanager
async def job_plane() -> AsyncIterator[JobPlane]:
    """A job store, a gateway's service and no replica yet; all is ended afterwards."""
    async with job_bench() as bench, data_plane() as plane:
        yield JobPlane(bench, plane)

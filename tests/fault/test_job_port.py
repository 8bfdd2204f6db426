"""The process of a replica's job port is killed, stopped, or loses its replica, while jobs run."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from load_tests.servers.processes import alive, descendants, title
from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.jobs import calls
from penstock.shared.jobs.payload import unpack_result
from penstock.shared.jobs.record import JobRecord, JobState
from penstock.shared.wire.tensors import AnyArray, array_from_tensor
from penstock.worker.control.messages import Drained, DrainNow
from penstock.worker.jobs.port_link import NICE
from tests.fault.job_plane import JobBench, JobPlane, job_plane, looked_after
from tests.support import mlflow_models, models
from tests.support.data_plane import rows
from tests.support.waiting import eventually

ONE_THREAD = ReplicaSettings(threads=1, max_batch_size=32)
INPUT = "input-0"


def number(value: float) -> AnyArray:
    return np.array([value])


async def port_of(replica: int, but: int = 0) -> int:
    """The process of a replica's job port, once it has begun.

    Args:
        but: one before it, which may be about to end.
    """
    found: list[int] = []

    def begun() -> bool:
        found[:] = [pid for pid in descendants(replica) if pid != but]
        found[:] = [pid for pid in found if title(pid).startswith("penstock job-port")]
        return len(found) == 1

    await eventually(begun)
    return found[0]


def mapped(pid: int) -> str:
    """What a process has mapped: of libraries, their paths."""
    return Path(f"/proc/{pid}/maps").read_text()


async def outcomes(bench: JobBench, ids: Sequence[str]) -> list[JobRecord]:
    """The records of jobs, once all are over; each has ended once."""
    records = [await bench.finished(job_id) for job_id in ids]
    totals = (await bench.store.run(calls.totals()))["m"]
    assert sum(spans.count for spans in totals.ended.values()) == len(ids)
    return records


async def results(bench: JobBench, ids: Sequence[str]) -> list[float]:
    """The first number of each result."""
    found = []
    for job_id in ids:
        content = await bench.store.run(calls.result(job_id))
        assert content is not None
        assert content.body is not None
        final = unpack_result(content.body).final
        found.append(float(array_from_tensor(final.outputs[0]).ravel()[0]))
    return found


async def test_it_is_a_light_process_that_stands_behind_calls_and_drains_with_its_replica(
    tmp_path: Path,
) -> None:
    async with job_plane() as plane:
        child = await plane.join(models.affine(tmp_path / "m", 2.0), ONE_THREAD)
        port = await port_of(child.process.pid)
        assert title(port) == "penstock job-port m/1"
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, port) == min(ours + NICE, 19)
        assert not [name for name in ("onnxruntime", "libtorch") if name in mapped(port)]
        child.tell(DrainNow(grace_s=30))
        await asyncio.to_thread(child.hear, Drained)
        await eventually(lambda: not alive(port))


async def test_a_port_that_is_killed_again_and_again_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    async with job_plane() as plane:
        child = await plane.join(models.affine(tmp_path / "m", 2.0), ONE_THREAD)
        pid = child.process.pid
        ids = await plane.submit_all([rows(each) for each in range(3000)])
        for _ in range(3):
            port = await port_of(pid)
            await asyncio.sleep(0.3)
            os.kill(port, signal.SIGKILL)
            assert (await plane.plane.infer(rows(3))).tolist() == [[6, 6]]
            await port_of(pid, but=port)
        records = await outcomes(plane, ids)
        assert {record.state for record in records} == {JobState.SUCCEEDED}
        assert {record.deaths for record in records} == {0}
        assert await results(plane, ids) == [2 * each for each in range(3000)]
        print("executions:", sum(record.attempts for record in records), "of", len(records))
        assert child.process.poll() is None


async def _long_job(plane: JobPlane, folder: Path, **changes: object) -> tuple[int, str]:
    """A replica's process, and a job of 3 s that it has begun."""
    alone = ReplicaSettings(threads=1, max_batch_size=1)
    child = await plane.join(folder, alone, cancel_grace_s=60, **changes)
    job_id = await plane.submit(number(3000), name=INPUT)
    await plane.until_state(job_id, JobState.RUNNING)
    return child.process.pid, job_id


async def test_what_runs_when_its_port_is_killed_runs_again_at_no_cost(tmp_path: Path) -> None:
    async with job_plane() as plane:
        pid, job_id = await _long_job(plane, mlflow_models.napping(tmp_path / "m"))
        port = await port_of(pid)
        os.kill(port, signal.SIGKILL)
        record = await plane.until_state(job_id, JobState.QUEUED)
        assert (record.attempts, record.deaths) == (0, 0)
        assert (await plane.result(job_id)).tolist() == [3000]
        assert (await plane.record(job_id)).attempts == 1
        assert await port_of(pid, but=port) != port


async def test_a_port_that_is_stopped_is_replaced_when_its_leases_are_over(tmp_path: Path) -> None:
    async with job_plane() as plane:
        short = {"lease_s": 2.0, "heartbeat_s": 0.5}
        pid, job_id = await _long_job(plane, mlflow_models.napping(tmp_path / "m"), **short)
        port = await port_of(pid)
        os.kill(port, signal.SIGSTOP)
        assert await port_of(pid, but=port) != port
        assert not alive(port)
        assert (await plane.result(job_id)).tolist() == [3000]


async def test_a_port_that_is_stopped_for_a_moment_goes_on(tmp_path: Path) -> None:
    async with job_plane() as plane:
        pid, job_id = await _long_job(plane, mlflow_models.napping(tmp_path / "m"))
        port = await port_of(pid)
        os.kill(port, signal.SIGSTOP)
        await asyncio.sleep(1.0)
        os.kill(port, signal.SIGCONT)
        assert (await plane.result(job_id)).tolist() == [3000]
        assert (await plane.record(job_id)).attempts == 1
        assert await port_of(pid) == port


async def test_a_replica_that_is_killed_leaves_no_port_behind_and_loses_nothing(
    tmp_path: Path,
) -> None:
    folder = mlflow_models.moody(tmp_path / "m")
    async with looked_after(folder, 2, ONE_THREAD) as (bench, plane):
        wanted = [float(each % 50) for each in range(2000)]
        ids = await bench.submit_all([number(each) for each in wanted], name=INPUT)
        ports = []
        for restarts in (1, 2):
            (victim, *_) = await plane.all_ready(2)
            assert victim.pid is not None
            ports.append(await port_of(victim.pid))
            os.kill(victim.pid, signal.SIGKILL)
            await plane.restarted(restarts)
        records = await outcomes(bench, ids)
        assert {record.state for record in records} == {JobState.SUCCEEDED}
        assert await results(bench, ids) == [each * 10 for each in wanted]
        print("executions:", sum(record.attempts for record in records), "of", len(records))
        assert not [port for port in ports if alive(port)]
        ports = [await port_of(replica.pid or 0) for replica in await plane.all_ready(2)]
    assert not [port for port in ports if alive(port)]

"""Jobs in real replica processes, with a real store: batched, canceled, lost, drained."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest

from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.jobs import calls
from penstock.shared.jobs.blobs import BlobStore
from penstock.shared.jobs.payload import unpack_result
from penstock.shared.jobs.record import JobState
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from penstock.worker.control.messages import Drained, DrainNow
from tests.fault.job_plane import KEYS, JobPlane, job_plane, looked_after
from tests.support import mlflow_models, models
from tests.support.data_plane import ReplicaChild, rows

ONE_THREAD = ReplicaSettings(threads=1, max_batch_size=32)
INPUT = "input-0"


def number(value: float) -> AnyArray:
    return np.array([value])


def call(value: float) -> InferenceCall:
    return InferenceCall("m", None, (tensor_from_array(INPUT, number(value)),), timeout_s=30.0)


async def test_jobs_are_leased_run_and_committed(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with job_plane() as plane:
        before = await plane.submit(rows(1, 2))
        await plane.join(folder, ONE_THREAD)
        assert (await plane.result(before)).tolist() == [[2, 2], [4, 4]]
        ids = await plane.submit_all([rows(each) for each in range(300)])
        for each, job_id in enumerate(ids):
            assert (await plane.result(job_id)).tolist() == [[2 * each, 2 * each]]
            record = await plane.record(job_id)
            assert (record.attempts, record.deaths) == (1, 0)
        answer = await plane.plane.infer(rows(3))
        assert answer.tolist() == [[6, 6]]


async def test_one_bad_input_among_many_fails_alone_with_the_code_that_a_call_would_have(
    tmp_path: Path,
) -> None:
    async with job_plane() as plane:
        await plane.join(mlflow_models.moody(tmp_path / "m"), ONE_THREAD)
        wanted = [float(each) for each in (*range(20), 77, *range(20, 40))]
        ids = await plane.submit_all([number(each) for each in wanted], name=INPUT)
        for each, job_id in zip(wanted, ids, strict=True):
            if each != 77:
                assert (await plane.result(job_id)).tolist() == [each * 10]
        failed = await plane.finished(ids[20])
        assert (failed.state, failed.error_code) == (JobState.FAILED, ErrorCode.MODEL_ERROR)
        assert failed.attempts == 1


async def _answers(plane: JobPlane, count: int) -> list[float]:
    """The answers of calls, one after another."""
    answers = []
    for each in range(count):
        answer = await plane.plane.infer(rows(each))
        answers.append(float(answer[0, 0]))
    return answers


async def test_calls_come_first_beside_a_full_queue_of_jobs(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await plane.join(models.affine(tmp_path / "m", 2.0), ONE_THREAD)
        ids = await plane.submit_all([rows(each) for each in range(1000)])
        assert await _answers(plane, 100) == [2 * each for each in range(100)]
        assert (await plane.result(ids[-1])).tolist() == [[1998, 1998]]


async def _napping(plane: JobPlane, tmp_path: Path, **settings: object) -> ReplicaChild:
    """A replica that sleeps for as many milliseconds as its input says, one job at a time."""
    folder = mlflow_models.napping(tmp_path / "m")
    wanted = ReplicaSettings(threads=1, max_batch_size=1, **settings)
    return await plane.join(folder, wanted, heartbeat_s=0.2, cancel_grace_s=10.0)


async def test_cancel_of_what_waits_and_of_what_runs(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await _napping(plane, tmp_path)
        running = await plane.submit(number(2500), name=INPUT)
        await plane.until_state(running, JobState.RUNNING)
        waiting = await plane.submit(number(1), name=INPUT)
        assert await plane.store.run(calls.cancel(waiting)) is JobState.CANCELED
        assert await plane.store.run(calls.cancel(running)) is JobState.CANCELING
        assert (await plane.finished(running)).state is JobState.CANCELED
        after = await plane.submit(number(3), name=INPUT)
        assert (await plane.result(after)).tolist() == [3]
        assert (await plane.record(running)).result is None


async def test_a_cancel_is_heard_long_before_the_next_heartbeat(tmp_path: Path) -> None:
    folder = mlflow_models.napping(tmp_path / "m")
    async with job_plane() as plane:
        await plane.join(folder, ONE_THREAD, heartbeat_s=60, lease_s=120, cancel_grace_s=60)
        running = await plane.submit(number(5000), name=INPUT)
        await plane.until_state(running, JobState.RUNNING)
        began = time.monotonic()
        assert await plane.store.run(calls.cancel(running)) is JobState.CANCELING
        assert (await plane.finished(running)).state is JobState.CANCELED
        assert time.monotonic() - began < 3


@pytest.mark.parametrize("name", ["napping", "painting"])
async def test_a_canceled_job_that_goes_on_alone_is_ended_with_its_replica(
    tmp_path: Path, name: str
) -> None:
    begun = tmp_path / "begun"
    painted = name == "painting"
    folder = (
        mlflow_models.painting(tmp_path / "m", begun)
        if painted
        else mlflow_models.napping(tmp_path / "m")
    )
    endless = number(60_000) if name == "napping" else number(-60)
    async with looked_after(folder, 1, ONE_THREAD, job_cancel_grace_s=0.5) as (bench, plane):
        begun.unlink(missing_ok=True)  # of a trial
        job_id = await bench.submit(endless, name=INPUT)
        await bench.until_state(job_id, JobState.RUNNING)
        after = await bench.submit(number(3), name=INPUT)
        await asyncio.sleep(
            0.5
        )  # RUNNING is reported before the stream starts, where it could stop
        began = time.monotonic()
        assert await bench.store.run(calls.cancel(job_id)) is JobState.CANCELING
        assert (await bench.finished(job_id)).state is JobState.CANCELED
        assert time.monotonic() - began < 5
        record = await bench.finished(after)
        assert (record.state, record.attempts, record.deaths) == (JobState.SUCCEEDED, 1, 0)
        await plane.all_ready(1)
        assert (await bench.record(job_id)).deaths == 0
        assert await plane.restarts() == 0
        assert await plane.kills() == {"job_canceled": 1}


async def test_a_canceled_job_that_a_call_waits_behind_is_not_ended_by_force(
    tmp_path: Path,
) -> None:
    folder = mlflow_models.napping(tmp_path / "m")
    async with looked_after(folder, 1, ONE_THREAD, job_cancel_grace_s=0.5) as (bench, plane):
        (before,) = await plane.replicas()
        job_id = await bench.submit(number(4000), name=INPUT)
        await bench.until_state(job_id, JobState.RUNNING)
        behind = asyncio.create_task(plane.infer(5))
        await asyncio.sleep(0.2)
        await bench.store.run(calls.cancel(job_id))
        assert (await bench.finished(job_id)).state is JobState.CANCELED
        assert await behind == 5
        (now,) = await plane.replicas()
        assert now.replica == before.replica
        assert await plane.kills() == {}


async def test_long_executions_tell_an_estimate_of_their_progress(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await _napping(plane, tmp_path)
        first = await plane.submit(number(1500), name=INPUT)
        await plane.finished(first)
        for _ in range(4):  # the estimate is a median, and the warm-up's runs were short
            await plane.finished(await plane.submit(number(1500), name=INPUT))
        job_id = await plane.submit(number(3000), name=INPUT)
        record = await plane.until(job_id, lambda record: record.progress is not None)
        assert record.progress_estimated
        assert record.progress is not None
        assert 0 < record.progress < 1


async def test_a_replica_that_drains_ends_what_runs_and_gives_back_the_rest(tmp_path: Path) -> None:
    async with job_plane() as plane:
        child = await _napping(plane, tmp_path, job_concurrency=4, job_slice_ms=10_000)
        ids = await plane.submit_all([number(1000)] * 3, name=INPUT)
        await plane.until_state(ids[0], JobState.RUNNING)
        await asyncio.sleep(0.2)
        child.tell(DrainNow(grace_s=30))
        await asyncio.to_thread(child.hear, Drained)
        records = [await plane.record(job_id) for job_id in ids]
        assert [record.state for record in records] == [
            JobState.SUCCEEDED,
            JobState.QUEUED,
            JobState.QUEUED,
        ]
        assert [record.attempts for record in records] == [1, 0, 0]


async def test_a_job_that_outlasts_the_drain_is_given_back(tmp_path: Path) -> None:
    async with job_plane() as plane:
        child = await _napping(plane, tmp_path)
        job_id = await plane.submit(number(20_000), name=INPUT)
        await plane.until_state(job_id, JobState.RUNNING)
        began = time.monotonic()
        child.tell(DrainNow(grace_s=2.0))
        await asyncio.to_thread(child.hear, Drained)
        assert time.monotonic() - began < 15
        record = await plane.record(job_id)
        assert (record.state, record.attempts) == (JobState.QUEUED, 0)


async def test_a_store_that_is_away_keeps_no_result_and_no_call_waiting(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await _napping(plane, tmp_path)
        job_id = await plane.submit(number(1500), name=INPUT)
        await plane.until_state(job_id, JobState.RUNNING)
        plane.server.kill()
        answer = await plane.plane.service.infer(call(5))
        assert array_from_tensor(answer.outputs[0]).tolist() == [5]
        await asyncio.sleep(1.0)
        await asyncio.to_thread(plane.server.start)
        assert (await plane.result(job_id)).tolist() == [1500]
        assert (await plane.record(job_id)).attempts == 1
        after = await plane.submit(number(3), name=INPUT)
        assert (await plane.result(after)).tolist() == [3]


async def test_a_job_that_kills_its_replica_does_so_twice_and_harms_no_other(
    tmp_path: Path,
) -> None:
    folder = mlflow_models.moody(tmp_path / "m")
    async with looked_after(folder, 2, ONE_THREAD) as (bench, plane):
        wanted = [float(each) for each in (*range(30), 99, *range(30, 60))]
        ids = await bench.submit_all([number(each) for each in wanted], name=INPUT)
        for each, job_id in zip(wanted, ids, strict=True):
            if each != 99:
                assert (await bench.result(job_id)).tolist() == [each * 10]
        killer = await bench.finished(ids[30])
        assert (killer.state, killer.deaths, killer.dead) == (JobState.FAILED, 2, True)
        assert killer.error_code == ErrorCode.REPLICA_CRASHED
        await plane.restarted(2)
        records = [await bench.record(job_id) for job_id in ids]
        print("executions:", sum(record.attempts for record in records), "of", len(records))
        assert await plane.infer(7) == 70


async def test_jobs_that_had_not_begun_when_their_replica_died_are_no_suspects(
    tmp_path: Path,
) -> None:
    folder = mlflow_models.moody(tmp_path / "m")
    alone = ReplicaSettings(threads=1, max_batch_size=1, job_concurrency=32)
    async with looked_after(folder, 1, alone) as (bench, _):
        ids = await bench.submit_all([number(each) for each in range(50)], name=INPUT)
        for job_id in ids:  # now it is known how short they are, so many are leased ahead
            await bench.finished(job_id)
        wanted = [1.0] * 40 + [99.0] + [2.0] * 40
        ids = await bench.submit_all([number(each) for each in wanted], name=INPUT)
        records = [await bench.finished(job_id) for job_id in ids]
        assert (records[40].state, records[40].deaths) == (JobState.FAILED, 2)
        for record in (*records[:40], *records[41:]):
            assert record.state is JobState.SUCCEEDED
        spared = [(record.attempts, record.deaths) for record in records[41:]]
        assert spared == [(1, 0)] * 40
        totals = await bench.store.run(calls.totals())
        print("given back:", totals["m"].released, "executed anew:", totals["m"].lost)
        assert totals["m"].released > 0


@pytest.mark.parametrize("name", ["napping", "painting"])
async def test_a_clients_timeout_ends_its_job_and_never_a_replica_that_calls_share(
    tmp_path: Path, name: str
) -> None:
    folder = getattr(mlflow_models, name)(tmp_path / "m")
    long = number(4000 if name == "napping" else 40)  # milliseconds, or steps of 0.1 s
    async with looked_after(folder, 1, ONE_THREAD, abandoned_grace_s=0) as (bench, plane):
        (before,) = await plane.replicas()
        job_id = await bench.submit(long, name=INPUT, timeout_ms=300)
        began = time.monotonic()
        record = await bench.finished(job_id)
        assert time.monotonic() - began < 2
        assert (record.state, record.attempts, record.deaths) == (JobState.FAILED, 1, 0)
        assert record.error_code == ErrorCode.DEADLINE_EXCEEDED
        after = await bench.submit(number(5), name=INPUT, timeout_ms=20_000)
        assert (await bench.finished(after)).state is JobState.SUCCEEDED
        if name == "painting":
            assert time.monotonic() - began < 3  # it was stopped, and not waited for
        (now,) = await plane.replicas()
        assert now.replica == before.replica
        assert await plane.kills() == {}


async def test_a_model_that_streams_tells_progress_and_outputs_and_can_be_stopped(
    tmp_path: Path,
) -> None:
    async with job_plane() as plane:
        await plane.join(mlflow_models.painting(tmp_path / "m"), ONE_THREAD, heartbeat_s=0.2)
        done = await plane.submit(number(5), name=INPUT)
        assert (await plane.result(done)).tolist() == [25]
        events = await plane.store.run(calls.events(done))
        assert len([event for event in events if event.output is not None]) == 5
        assert any(event.progress and event.progress.message == "step 5" for event in events)
        long = await plane.submit(number(300), name=INPUT)
        record = await plane.until(long, lambda record: bool(record.partial))
        assert not record.progress_estimated
        assert await plane.store.run(calls.cancel(long)) is JobState.CANCELING
        after = await plane.submit(number(2), name=INPUT)
        assert (await plane.result(after)).tolist() == [4]
        assert (await plane.record(long)).state is JobState.CANCELED


async def test_what_the_store_does_not_keep_lies_in_the_blob_store(tmp_path: Path) -> None:
    folder, blobs = mlflow_models.widening(tmp_path / "m"), tmp_path / "blobs"
    async with job_plane() as plane:
        await plane.join(folder, ONE_THREAD, blobs_url=str(blobs))
        job_id = await plane.submit(number(7), name=INPUT)
        record = await plane.finished(job_id)
        assert record.state is JobState.SUCCEEDED
        assert record.result is not None
        data = BlobStore(str(blobs), KEYS.namespace).get(record.result.blob)
        assert len(data) == record.result.size_bytes
        answer = array_from_tensor(unpack_result(data).final.outputs[0])
        assert answer.shape == (1, 100_000)
        assert answer.max() == answer.min() == 7


async def test_results_and_outputs_of_a_full_store_lie_in_the_blob_store(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    async with job_plane() as plane:
        full = {"blobs_url": str(blobs), "store_bytes_max": 1, "heartbeat_s": 0.2}
        await plane.join(mlflow_models.drawing(tmp_path / "m"), ONE_THREAD, **full)
        job_id = await plane.submit(number(7), name=INPUT)
        record = await plane.finished(job_id)
        assert record.state is JobState.SUCCEEDED, record
        assert record.result is not None
        result = unpack_result(BlobStore(str(blobs), KEYS.namespace).get(record.result.blob))
        assert array_from_tensor(result.final.outputs[0]).shape == (1, 1000)
        events = await plane.store.run(calls.events(job_id))
        outputs = [event.output for event in events if event.output is not None]
        assert outputs
        assert all(output.blob for output in outputs)


async def test_a_full_store_without_blobs_fails_the_job_and_says_why(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await plane.join(mlflow_models.drawing(tmp_path / "m"), ONE_THREAD, store_bytes_max=1)
        job_id = await plane.submit(number(1), name=INPUT, max_attempts=2)
        record = await plane.finished(job_id)
        assert (record.state, record.error_code) == (JobState.FAILED, ErrorCode.STORE_FULL)
        assert (record.attempts, record.dead) == (2, True)

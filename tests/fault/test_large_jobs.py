"""Jobs of more rows than a batch, in real replicas: in pieces, with progress, answered as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.jobs import calls
from penstock.shared.jobs.record import JobState
from tests.fault.job_plane import job_plane
from tests.support import mlflow_models, models
from tests.support.data_plane import rows

EIGHT = ReplicaSettings(threads=1, max_batch_size=8)
INPUT = "input-0"


async def test_thousands_of_rows_are_one_result_and_calls_come_between(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await plane.join(models.affine(tmp_path / "m", 2.0), EIGHT)
        arrays = [rows(*range(start, start + 3_000)) for start in (0, 10_000)]
        ids = await plane.submit_all(arrays)
        assert (await plane.plane.infer(rows(3))).tolist() == [[6, 6]]
        for array, job_id in zip(arrays, ids, strict=True):
            assert (await plane.result(job_id)).tolist() == (array * 2).tolist()
            record = await plane.record(job_id)
            assert (record.attempts, record.deaths) == (1, 0)


async def test_it_tells_its_progress_and_can_be_canceled_between_two_pieces(tmp_path: Path) -> None:
    async with job_plane() as plane:
        folder = mlflow_models.noting(tmp_path / "m", 20.0, tmp_path / "notes")
        await plane.join(folder, EIGHT, heartbeat_s=0.2)
        job_id = await plane.submit(np.arange(2_000.0), name=INPUT)
        record = await plane.until(job_id, lambda record: (record.progress or 0) > 0.01)
        assert not record.progress_estimated
        assert await plane.store.run(calls.cancel(job_id)) is JobState.CANCELING
        assert (await plane.finished(job_id)).state is JobState.CANCELED
        after = await plane.submit(np.array([3.0]), name=INPUT)
        assert (await plane.result(after)).tolist() == [30]
        executed = (tmp_path / "notes").read_text().count("\n")
        assert executed < 2_000


async def test_a_row_that_fails_is_told(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await plane.join(mlflow_models.moody(tmp_path / "m"), EIGHT)
        array = np.arange(40.0)
        array[21] = 77
        bad, good = await plane.submit_all([array, np.arange(40.0)], name=INPUT)
        failed = await plane.finished(bad)
        assert (failed.state, failed.error_code) == (JobState.FAILED, ErrorCode.MODEL_ERROR)
        assert failed.error_message.startswith("rows ")
        assert "of 40 (from 0): " in failed.error_message
        assert (await plane.result(good)).tolist() == (np.arange(40.0) * 10).tolist()


async def test_answers_that_do_not_fit_together_come_of_one_execution(tmp_path: Path) -> None:
    async with job_plane() as plane:
        await plane.join(mlflow_models.moody(tmp_path / "m"), EIGHT)
        array = np.array([*range(30), 79, *range(30)], float)
        assert (await plane.result(await plane.submit(array, name=INPUT))).tolist() == (
            (array * 10)[:-1].tolist()
        )

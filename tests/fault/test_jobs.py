"""Jobs in real replica processes, with a real store: batched, canceled, lost, drained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.deployment import ReplicaSettings
from shared.jobs.record import JobState
from tests import models
from tests.data_plane import rows
from tests.fault.job_plane import job_plane

ONE_THREAD = ReplicaSettings(threads=1, max_batch_size=32)


async def test_jobs_are_leased_run_and_committed(tmp_path: Path) -> None:
    folder = models.affine(tmp_path / "m", 2.0)
    async with job_plane() as plane:
        before = await plane.submit(rows(1, 2))
        await plane.join(folder, ONE_THREAD)
        assert (await plane.result(before)).tolist() == [[2, 2], [4, 4]]
        ids = await plane.submit_all([rows(number) for number in range(300)])
        for number, job_id in enumerate(ids):
            assert (await plane.result(job_id)).tolist() == [[2 * number, 2 * number]]
            record = await plane.record(job_id)
            assert (record.attempts, record.deaths) == (1, 0)
            assert record.state is JobState.SUCCEEDED
        answer = await plane.plane.infer(np.array([[3, 3]], np.float32))
        assert answer.tolist() == [[6, 6]]

"""Replica processes that are there for jobs alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from penstock.shared.contracts.errors import PenstockError
from tests.support.data_plane import data_plane, rows
from tests.support.models import affine


async def test_a_replica_for_jobs_tells_its_interface_and_gets_no_calls(tmp_path: Path) -> None:
    folder = affine(tmp_path / "m", 2.0)
    async with data_plane() as plane:
        await plane.join(folder, duty="jobs")
        assert plane.service.metadata("m", None).interface.max_batch_size == 32
        assert not plane.service.model_ready("m", None)
        with pytest.raises(PenstockError):
            await plane.infer(rows(1), timeout_s=0.5)
        await plane.join(folder, duty="calls")
        answers = await asyncio.gather(*(plane.infer(rows(number)) for number in range(20)))
        assert [answer[0][0] for answer in answers] == [2.0 * number for number in range(20)]
        (revision,) = plane.service.revisions()
        assert [each.id for each in revision.replicas] == ["replica-1"]
        assert [each.id for each in revision.for_jobs] == ["replica-0"]

"""Deaths are reported in order, once the store answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection

import pytest

from penstock.shared.contracts.errors import StateStoreError
from penstock.worker.agent import job_losses as losses
from penstock.worker.agent.job_losses import LOSSES_MAX, Losses
from tests.support.waiting import eventually


class FakeStore:
    """Takes down who died, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.tries = 0
        self.lost: list[str] = []
        self.begun: list[Collection[str] | None] = []

    async def lose(self, replica: str, begun: Collection[str] | None) -> int:
        self.tries += 1
        if self.away:
            raise StateStoreError("away")
        self.lost.append(replica)
        self.begun.append(begun)
        return 1


async def test_deaths_wait_for_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "RETRY_S", 0.01)
    store = FakeStore()
    store.away = True
    reports = Losses(store.lose)
    task = asyncio.create_task(reports.run())
    try:
        reports.add("r1", {"job"})
        await eventually(lambda: store.tries > 2)
        reports.add("r2", None)
        store.away = False
        await eventually(lambda: store.lost == ["r1", "r2"])
        assert store.begun == [{"job"}, None]
        for number in range(LOSSES_MAX + 5):
            reports.add(str(number), None)
        await eventually(lambda: len(store.lost) == 2 + LOSSES_MAX)
        assert store.lost[-1] == str(LOSSES_MAX + 4)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

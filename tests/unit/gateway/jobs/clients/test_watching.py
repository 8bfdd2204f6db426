"""Following a job whose end comes while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from penstock.gateway.jobs.access import JobAccess
from penstock.gateway.jobs.clients import watching
from penstock.gateway.jobs.clients.byte_budget import ByteBudget
from penstock.gateway.jobs.clients.submission import accepted
from penstock.gateway.jobs.clients.watching import STEP_BYTES, JobWatch
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.jobs.answers import JobEvent, Submitted
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.record import Content, JobState, NewJob

QUEUED = accepted(
    NewJob("id", "m", "1", "r"), Content("text/plain", 1), Submitted("id", True, 1000, 0)
)
DONE = replace(QUEUED, record=replace(QUEUED.record, state=JobState.SUCCEEDED))
END = JobEvent("2-0", 2, state=JobState.SUCCEEDED)
HERE = JobEvent("1-1", 1, output=Content("text/plain", 100), body=b"x" * 100)
ELSEWHERE = JobEvent("1-2", 1, output=Content("text/plain", 2_000, "a-blob"))


class FinishingStore:
    """Its job finishes right after its events were read; its records take a while to come."""

    found = Durability.ALWAYS

    def __init__(self) -> None:
        self.finished = False

    async def run(self, call: Call[Any]) -> Any:
        if call.script == "events":
            events = [END] if self.finished and call.arguments[1] != END.id else []
            self.finished = True
            return events
        await asyncio.sleep(0.01)
        return DONE if self.finished else QUEUED


class NoNews:
    """Nobody hints at anything."""

    @contextmanager
    def of(self, job_id: str) -> Iterator[asyncio.Event]:
        yield asyncio.Event()


async def test_a_stream_ends_with_the_end() -> None:
    settings = JobSettings(jobs_keepalive_s=0.01)
    access = JobAccess(FinishingStore(), None, settings)
    watch = JobWatch(access, NoNews(), settings, ByteBudget(1, "", 1.0))
    seen = [event async for event in watch.events("id", "1-0")]
    assert [event for event in seen if event] == [END]


class ToldStore:
    """A job that is finished, with outputs: one kept here, and one elsewhere."""

    found = Durability.ALWAYS

    async def run(self, call: Call[Any]) -> Any:
        if call.script != "events":
            return DONE
        told = [HERE, ELSEWHERE, END]
        return [event for event in told if event.id > str(call.arguments[1])]


async def test_a_stream_holds_its_outputs_until_they_were_sent() -> None:
    settings, budget = JobSettings(), ByteBudget(STEP_BYTES, "too much", 1.0)
    watch = JobWatch(JobAccess(ToldStore(), None, settings), NoNews(), settings, budget)
    stream = watch.events("id", "0-0")
    seen = [await anext(stream)]
    budget.take(STEP_BYTES - 100 - 2_000).release()
    with pytest.raises(PenstockError):
        budget.take(STEP_BYTES - 100 - 2_000 + 1)
    seen += [event async for event in stream]
    assert [event for event in seen if event] == [HERE, ELSEWHERE, END]
    budget.take(1)
    budget.take(STEP_BYTES - 1).release()


async def test_a_stream_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "AWAY_PAUSE_S", 0.01)
    settings, budget = JobSettings(), ByteBudget(STEP_BYTES, "too much", 1.0)
    watch = JobWatch(JobAccess(ToldStore(), None, settings), NoNews(), settings, budget)
    others = budget.take(STEP_BYTES)
    stream = watch.events("id", "0-0")
    for _ in range(3):
        assert await anext(stream) is None
    others.release()
    assert await anext(stream) == HERE
    await stream.aclose()
    budget.take(STEP_BYTES)
    budget.take(0)

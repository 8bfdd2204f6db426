"""Following a job whose end comes while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from gateway.jobs.access import JobAccess
from gateway.jobs.settings import JobSettings
from gateway.jobs.submission import accepted
from gateway.jobs.watching import JobWatch
from shared.jobs.answers import JobEvent, Submitted
from shared.jobs.calls import Call
from shared.jobs.record import Content, JobState, NewJob

QUEUED = accepted(
    NewJob("id", "m", "1", "r"), Content("text/plain", 1), Submitted("id", True, 1000, 0)
)
DONE = replace(QUEUED, record=replace(QUEUED.record, state=JobState.SUCCEEDED))
END = JobEvent("2-0", 2, state=JobState.SUCCEEDED)


class FinishingStore:
    """Its job finishes right after its events were read; its records take a while to come."""

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
    watch = JobWatch(JobAccess(FinishingStore(), None, settings), NoNews(), settings)
    seen = [event async for event in watch.events("id", "1-0")]
    assert [event for event in seen if event] == [END]

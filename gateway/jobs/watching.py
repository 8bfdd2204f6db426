"""Waiting for a job, and following its events, without asking again and again.

Hints of changes come from `shared.jobs.news`; what they announce is read from the store. Who waits
is bounded in number and time, and is let go when the gateway leaves, to go on at another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from gateway.jobs.access import JobAccess, StoreAwayError
from gateway.jobs.settings import JobSettings
from shared.errors import ErrorCode, PenstockError
from shared.jobs import calls
from shared.jobs.answers import JobEvent, JobView
from shared.jobs.record import FINISHED

EVENTS_MOST = 64
"""Events read in one step: with 64 KiB of output each, 4 MiB in memory."""

AWAY_PAUSE_S = 1.0
"""How long a stream of events waits when the store does not answer."""


class News(Protocol):
    """What is needed of `shared.jobs.news.JobNews`."""

    def of(self, job_id: str) -> AbstractContextManager[asyncio.Event]: ...


class JobWatch:
    """All that wait for jobs at this gateway."""

    def __init__(self, access: JobAccess, news: News, settings: JobSettings) -> None:
        self._access = access
        self._news = news
        self._settings = settings
        self._watching: set[asyncio.Event] = set()
        self._leaving = False

    def __len__(self) -> int:
        return len(self._watching)

    def begin_drain(self) -> None:
        """The gateway leaves: waits end now, with what is known; new ones end at once."""
        self._leaving = True
        for changed in self._watching:
            changed.set()

    @property
    def is_full(self) -> bool:
        """Whether as many watch as may."""
        return len(self._watching) >= self._settings.jobs_watchers_max

    def check_room(self) -> None:
        """Refuse one more who waits.

        Raises:
            PenstockError: QUEUE_FULL.
        """
        if self.is_full:
            message = "too many requests wait for jobs at this gateway"
            raise PenstockError(ErrorCode.QUEUE_FULL, message, self._settings.jobs_retry_after_s)

    async def until_finished(self, job_id: str, wait_s: float) -> JobView | None:
        """The job once it is finished, or as it is after `wait_s`; None if there is no such job.

        Raises:
            StoreAwayError: if the store does not answer.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + wait_s
        with self._watch(job_id) as changed:
            while True:
                changed.clear()
                view = await self._access.run(calls.get(job_id))
                left_s = deadline_s - loop.time()
                if view is None or view.record.state in FINISHED or left_s <= 0 or self._leaving:
                    return view
                await _set_within(changed, left_s)

    async def events(self, job_id: str, after: str) -> AsyncIterator[JobEvent | None]:
        """What happens to a job from the event `after` on, until it is finished.

        None where nothing happened for a while. Ends early if the gateway leaves, or after
        `jobs_stream_s_max`. While the store is away, it waits.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._settings.jobs_stream_s_max
        with self._watch(job_id) as changed:
            while loop.time() < ends_s and not self._leaving:
                changed.clear()
                try:
                    view, events = await self.step(job_id, after)
                except StoreAwayError:
                    yield None
                    await asyncio.sleep(AWAY_PAUSE_S)
                    continue
                for event in events:
                    yield event
                    after = event.id
                if events:
                    continue
                if view is None or view.record.state in FINISHED:
                    return
                if not await _set_within(changed, self._settings.jobs_keepalive_s):
                    yield None

    async def step(self, job_id: str, after: str) -> tuple[JobView | None, list[JobEvent]]:
        """The job, and then some events: what finished the job is among them, if it is finished."""
        view = await self._access.run(calls.get(job_id))  # first: an end may come in between
        return view, await self._access.run(calls.events(job_id, after, EVENTS_MOST))

    @contextmanager
    def _watch(self, job_id: str) -> Iterator[asyncio.Event]:
        self.check_room()
        with self._news.of(job_id) as changed:
            self._watching.add(changed)
            try:
                yield changed
            finally:
                self._watching.discard(changed)


async def _set_within(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True

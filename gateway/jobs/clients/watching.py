"""Waiting for a job, and following its events, without asking again and again.

Hints of changes come from `penstock.shared.jobs.news`; what they announce is read from the store.
Who waits is bounded in number and time, and is let go when the gateway leaves, to go on at another
one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from penstock.gateway.jobs.access import JobAccess, StoreAwayError
from penstock.gateway.jobs.clients.byte_budget import ByteBudget, ByteShare
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import JobEvent, JobView
from penstock.shared.jobs.record import FINISHED
from penstock.shared.jobs.scripts import LIMITS
from penstock.shared.process.waits import set_within

EVENTS_MOST = 64
"""Events read in one step."""

OUTPUT_SHOWN_BYTES_MAX = 1024 * 1024
"""Largest output of a stream that is shown; of larger ones, only their type and size are."""

STEP_BYTES = LIMITS["event_bytes"] + OUTPUT_SHOWN_BYTES_MAX
"""Most that a stream of events holds: what the store keeps of a job's outputs, and one that lies
elsewhere, since each is sent before the next one is fetched."""

AWAY_PAUSE_S = 1.0
"""How long a stream of events waits when the store does not answer, or there is no room."""


class News(Protocol):
    """What is needed of `penstock.shared.jobs.news.JobNews`."""

    def of(self, job_id: str) -> AbstractContextManager[asyncio.Event]: ...


class JobWatch:
    """All that wait for jobs at this gateway.

    Args:
        access: to the store.
        news: hints of changes.
        settings: bounds.
        outputs: of the bytes that streams of events may hold.

    Attributes:
        outputs: as given.
    """

    def __init__(
        self, access: JobAccess, news: News, settings: JobSettings, outputs: ByteBudget
    ) -> None:
        self._access = access
        self._news = news
        self._settings = settings
        self.outputs = outputs
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
                await set_within(changed, left_s)

    async def events(self, job_id: str, after: str) -> AsyncGenerator[JobEvent | None, None]:
        """What happens to a job from the event `after` on, until it is finished.

        None where nothing happened for a while. Ends early if the gateway leaves, or after
        `jobs_stream_s_max`. While the store is away, or there is no room for outputs, it waits.
        """
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + self._settings.jobs_stream_s_max
        with self._watch(job_id) as changed:
            while loop.time() < ends_s and not self._leaving:
                changed.clear()
                step = await self._held_step(job_id, after)
                if step is None:
                    yield None
                    await asyncio.sleep(AWAY_PAUSE_S)
                    continue
                view, events, share = step
                try:
                    for event in events:
                        yield event
                        after = event.id
                finally:
                    share.release()
                if events:
                    continue
                if view is None or view.record.state in FINISHED:
                    return
                if not await set_within(changed, self._settings.jobs_keepalive_s):
                    yield None

    async def step(
        self, job_id: str, after: str, most: int = EVENTS_MOST
    ) -> tuple[JobView | None, list[JobEvent]]:
        """The job, and then some events: what finished the job is among them, if it is finished."""
        view = await self._access.run(calls.get(job_id))  # first: an end may come in between
        return view, await self._access.run(calls.events(job_id, after, most))

    async def _held_step(
        self, job_id: str, after: str
    ) -> tuple[JobView | None, list[JobEvent], ByteShare] | None:
        """A step, and a share for its outputs, to be released; None where it cannot be had now."""
        try:
            share = self.outputs.take(STEP_BYTES)  # before reading: that all do so at a time
        except PenstockError:
            return None
        try:
            view, events = await self.step(job_id, after)
        except StoreAwayError:
            share.release()
            return None
        except BaseException:
            share.release()
            raise
        share.shrink(_bytes_held(events))
        return view, events, share

    @contextmanager
    def _watch(self, job_id: str) -> Iterator[asyncio.Event]:
        self.check_room()
        with self._news.of(job_id) as changed:
            self._watching.add(changed)
            try:
                yield changed
            finally:
                self._watching.discard(changed)


def _bytes_held(events: Sequence[JobEvent]) -> int:
    """What a stream holds at a time until these were sent."""
    elsewhere = [each.output.size_bytes for each in events if each.output and each.body is None]
    shown = [size for size in elsewhere if size <= OUTPUT_SHOWN_BYTES_MAX]
    return sum(len(each.body or b"") for each in events) + max(shown, default=0)

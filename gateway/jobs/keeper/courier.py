"""Tells webhooks of what became of jobs: takes from the store what is due, and reports back.

The store holds what one gateway has taken off from the others for a while (`hold_s`). Whatever
happens here, an event that was not reported as told comes again: each is told at least once.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from penstock.gateway.jobs.keeper.notices import notice, report_of
from penstock.gateway.jobs.keeper.outages import LoopOutage
from penstock.gateway.webhooks.event import WebhookEvent
from penstock.gateway.webhooks.retries import Delivered, DeliveryOutcome, GaveUp, Retry
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import WebhookDue
from penstock.shared.jobs.calls import STEP_JOBS, Call
from penstock.shared.jobs.store import JobStore
from penstock.shared.process.telemetry import get_logger

log = get_logger("webhooks")

POLL_S = 1.0
"""How often the store is asked; one small read."""

OPEN_MAX = 256
"""Events taken at a time: a few for each delivery that may be under way."""

TURN_S = 30.0
"""How long an event that was taken may wait for its turn; then it comes again."""

REPORT_S = 30.0
"""How long the outcome is kept for a store that is away; then it is told once more instead."""


class Sender(Protocol):
    """What the courier needs of `penstock.gateway.webhooks.sender.WebhookSender`."""

    async def send(self, url: str, event: WebhookEvent, attempt: int = 1) -> DeliveryOutcome:
        """Make one attempt; raises nothing."""
        ...


class WebhookCourier:
    """See the module's docstring.

    Args:
        store: of the jobs.
        sender: makes attempts.
        attempt_s: longest that one attempt takes, without the wait for its turn.

    Attributes:
        counts: attempts by their outcome: `delivered`, `failed` (to be tried again), `gave_up`.
    """

    def __init__(self, store: JobStore, sender: Sender, attempt_s: float) -> None:
        self._store = store
        self._sender = sender
        self._send_s = TURN_S + attempt_s
        self._open: set[asyncio.Task[None]] = set()
        self._given_up: list[str] = []  # since the last line of the log; at most what was open
        self.counts = {"delivered": 0, "failed": 0, "gave_up": 0}

    @property
    def hold_s(self) -> float:
        """For how long nobody else is given what was taken."""
        return self._send_s + REPORT_S

    async def run(self) -> None:
        """Deliver until cancelled; attempts under way are given up, and made again later."""
        outage = LoopOutage("webhooks of jobs")
        try:
            while True:
                try:
                    pause_s = await self._take()
                    outage.worked()
                except StateStoreError as error:
                    pause_s = outage.pause_after(error)
                self._tell()
                await self._pause(pause_s)
        finally:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _take(self) -> float:
        """Begin with what is due; returns how long to wait before there may be more."""
        room = min(OPEN_MAX - len(self._open), STEP_JOBS)
        if room <= 0:
            return POLL_S
        due = await self._store.run(calls.webhooks_due(round(self.hold_s * 1000), room))
        for each in due:
            task = asyncio.create_task(self._deliver(each))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        return POLL_S if len(due) < room else 0.0

    async def _pause(self, pause_s: float) -> None:
        """Sleep; where there is no room, only until there is some."""
        if len(self._open) >= OPEN_MAX:
            await asyncio.wait(
                self._open, timeout=pause_s or POLL_S, return_when=asyncio.FIRST_COMPLETED
            )
        else:
            await asyncio.sleep(pause_s)

    async def _deliver(self, due: WebhookDue) -> None:
        attempt = due.tries + 1
        try:
            async with asyncio.timeout(self._send_s):
                outcome = await self._sender.send(due.record.job.webhook, notice(due), attempt)
        except TimeoutError:  # of its own, an attempt would have ended before
            outcome = Retry(POLL_S, attempt, "waited too long for its turn")
        self._count(due, outcome)
        await self._report(report_of(due, outcome))

    def _count(self, due: WebhookDue, outcome: DeliveryOutcome) -> None:
        match outcome:
            case Delivered():
                self.counts["delivered"] += 1
            case Retry():
                self.counts["failed"] += 1
            case GaveUp(reason):
                self.counts["gave_up"] += 1
                self._given_up.append(f"job {due.record.id}, {due.state}: {reason}")

    def _tell(self) -> None:
        """One line for all that were given up, since a receiver that is gone has many."""
        if self._given_up:
            log.warning("webhooks given up", events=len(self._given_up), last=self._given_up[-1])
            self._given_up.clear()

    async def _report(self, call: Call[None]) -> None:
        """Tell the store, also one that is away for a moment."""
        pauses_s = iter((0.5, 1.0, 2.0, 4.0, 5.0))
        try:
            async with asyncio.timeout(REPORT_S):
                while True:
                    try:
                        return await self._store.run(call)
                    except StateStoreError:
                        await asyncio.sleep(next(pauses_s, 5.0))
        except TimeoutError:
            return None  # it comes again, when its hold ends

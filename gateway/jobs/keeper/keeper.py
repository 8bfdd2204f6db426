"""Keeps jobs going, in every gateway: looks at what the store holds, and does what is needed.

Leases that ran out are reclaimed, what waited too long expires, queues follow their versions, what
has had its time is collected, webhooks are told, and the figures are kept for the metrics. Each
step is a script that does it once, so gateways need not agree on who does it. None of it is on the
way of a call; while the store is away, it waits.

Next: `penstock.gateway.jobs.keeper.chores`, `moves` and `backlog`, which decide; `collector` and
`courier`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from penstock.gateway.jobs.keeper.backlog import Backlogs
from penstock.gateway.jobs.keeper.chores import Chore, due, samples
from penstock.gateway.jobs.keeper.collector import JobCollector, SweptBlobs
from penstock.gateway.jobs.keeper.courier import Sender, WebhookCourier
from penstock.gateway.jobs.keeper.moves import Move, Unserved
from penstock.gateway.jobs.keeper.outages import LoopOutage
from penstock.gateway.jobs.keeper.settings import JobKeeperSettings
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.routing import ModelRoute
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import StoreStats
from penstock.shared.jobs.calls import STEP_JOBS, Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.store import JobStore
from penstock.shared.jobs.totals import ModelTotals
from penstock.shared.process.clock import Clock
from penstock.shared.process.restarts import Restarts
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.records import record

log = get_logger("jobs")

PARTS = ("job_keeper", "job_collector", "job_courier")

ANSWER_S = 2.0
"""What an attempt to tell a webhook may take after its status came."""

STEPS_MAX = 20
"""Steps of moving one queue at one look: thousands of jobs, and the store gets to other things."""


class Serving(Protocol):
    """What the keeper needs of the gateway's service."""

    def routes(self) -> Mapping[str, ModelRoute]:
        """Routes by model; not to be changed."""
        ...

    def ready_counts(self) -> dict[str, int]:
        """Replicas that are ready, by revision."""
        ...


@record
class JobFigures:
    """What was seen last; a new one each time, so that other threads may read it.

    Attributes:
        stats: what the store holds; None before it first answered.
        totals: by model.
        backlog_s: seconds until a model's replicas are through with its jobs.
        reachable: whether the store answered when it was last asked.
    """

    stats: StoreStats | None
    totals: Mapping[str, ModelTotals]
    backlog_s: Mapping[str, float]
    reachable: bool


class JobKeeper:
    """See the module's docstring.

    Args:
        store: of the jobs.
        serving: tells of routes and replicas.
        settings: how often, and how long.
        sender: of webhooks; None: none are told.
        blobs: what is too large for the store; None: nothing may be.
        is_known: whether there is a job of an id; blocks, and raises `StateStoreError`.

    Attributes:
        figures: for metrics.
        webhooks: attempts to tell them, by outcome.
    """

    def __init__(
        self,
        store: JobStore,
        serving: Serving,
        settings: JobKeeperSettings,
        clock: Clock,
        sender: Sender | None,
        blobs: SweptBlobs | None,
        is_known: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._serving = serving
        self._settings = settings
        self._clock = clock
        self._unserved = Unserved(settings.jobs_move_after_s)
        self._backlogs = Backlogs()
        self._totals_at = float("-inf")
        self._durability: Durability | None = None
        self._collector = JobCollector(
            store=store,
            blobs=blobs,
            is_known=is_known,
            collect_s=settings.jobs_collect_s,
            sweep_s=settings.jobs_orphan_look_s,
            orphan_age_s=settings.jobs_orphan_age_s,
        )
        attempt_s = settings.webhook_timeout_s + ANSWER_S
        self._courier = WebhookCourier(store, sender, attempt_s) if sender else None
        self.webhooks: Mapping[str, int] = self._courier.counts if self._courier else {}
        self.figures = JobFigures(None, {}, {}, False)

    async def run(self, restarts: Restarts) -> None:
        """Keep on until cancelled; of `PARTS`, one that fails holds up no other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(restarts.keep("job_keeper", self._look_forever))
            tasks.create_task(restarts.keep("job_collector", self._collector.run))
            if self._courier is not None:
                tasks.create_task(restarts.keep("job_courier", self._courier.run))

    async def _look_forever(self) -> None:
        outage = LoopOutage("looking after jobs")
        while True:
            try:
                if not self.figures.reachable:
                    self._note(await self._store.durability())
                more = await self._look()
                pause_s = 0.0 if more else self._settings.jobs_look_s
                outage.worked()
            except StateStoreError as error:
                pause_s = outage.pause_after(error)
                seen = self.figures
                self.figures = JobFigures(seen.stats, seen.totals, seen.backlog_s, False)
            await asyncio.sleep(pause_s)

    def _note(self, durability: Durability) -> None:
        """Say what the store promises: at the start, and if that is another after an outage."""
        if durability is not self._durability:
            self._durability = durability
            tell = log.info if durability.is_sure else log.warning
            tell("job store", durability=durability.value, meaning=durability.meaning)

    async def _look(self) -> bool:
        """Look, and do what is needed; says whether there is more of it."""
        stats = await self._store.run(calls.stats())
        more = await self._do_chores(stats)
        routes, now = self._serving.routes(), self._clock.monotonic()
        for move in self._unserved.look(stats.queues, routes, now):
            more |= await self._move(move)
        return more

    async def _do_chores(self, stats: StoreStats) -> bool:
        now = self._clock.monotonic()
        chores = due(stats, now - self._totals_at, self._settings.jobs_totals_s)
        answers = await self._store.run_many([self._call(chore) for chore in chores])
        done = dict(zip(chores, answers, strict=True))
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        if (totals := done.get(Chore.TOTALS)) is not None:
            self._totals_at = now
        self._publish(stats, totals)
        steps = (done.get(Chore.RECLAIM, ()), done.get(Chore.EXPIRE, ()))
        self._tell(*steps)
        return any(len(step) >= STEP_JOBS for step in steps)

    def _call(self, chore: Chore) -> Call[Any]:
        settings = self._settings
        match chore:
            case Chore.RECLAIM:
                gap_ms = round(settings.jobs_reclaim_gap_s * 1000)
                grace_ms = round(settings.jobs_reclaim_grace_s * 1000)
                return calls.reclaim(gap_ms=gap_ms, grace_ms=grace_ms)
            case Chore.EXPIRE:
                return calls.expire()
            case Chore.TOTALS:
                return calls.totals()

    def _publish(self, stats: StoreStats, totals: Mapping[str, ModelTotals] | None) -> None:
        """New figures; the backlog is learned anew whenever totals were read."""
        backlog_s = self.figures.backlog_s
        if totals is not None:
            routes, ready = self._serving.routes(), self._serving.ready_counts()
            seen = samples(stats, totals, routes, ready)
            backlog_s = self._backlogs.observe(seen, self._clock.monotonic())
        known = self.figures.totals if totals is None else totals
        self.figures = JobFigures(stats, known, backlog_s, True)

    def _tell(self, reclaimed: Sequence[Any], expired: Sequence[str]) -> None:
        if reclaimed:
            log.warning("leases of jobs ended without a result", jobs=len(reclaimed))
        if expired:
            log.info("jobs expired in their queue", jobs=len(expired))

    async def _move(self, move: Move) -> bool:
        """Move a queue; says whether any of it is left."""
        call = calls.move_version(
            move.model, move.from_revision, move.to_revision, move.to_version, move.served
        )
        moved = failed = left = 0
        for _ in range(STEPS_MAX):
            step = await self._store.run(call)
            moved, failed, left = moved + step.moved, failed + step.failed, step.left
            if not left:
                break
        if moved or failed:
            log.info(
                "waiting jobs follow their model",
                model=move.model,
                revision=move.from_revision,
                version=move.to_version,
                moved=moved,
                failed=failed,
            )
        return left > 0

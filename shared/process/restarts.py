"""Parts that run beside what a process is there for: one that fails begins again.

An error that nobody foresaw in such a part must not end what goes on without it. It is said, with
its traceback, and counted, and the part begins again after a pause that grows while it fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from math import inf

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.shared.process.telemetry import get_logger
from penstock.shared.process.waits import cancellable

log = get_logger("restarts")

FIRST_S = 0.5
"""Pause after the first failure; it doubles with each one that follows."""

LONGEST_S = 30.0
"""Longest pause: how late a part is back whose trouble has gone, and two tracebacks a minute."""

WELL_AFTER_S = 60.0
"""A part that ran for so long begins again with the shortest pause."""

Run = Callable[[], Awaitable[None]]


class Restarts:
    """See the module's docstring.

    Args:
        parts: all that may be kept, so that their counts are there from the start.
        sleep: waits for so many seconds; for tests.

    Attributes:
        counts: how often each part has begun again.
    """

    def __init__(
        self, parts: Iterable[str], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.counts = dict.fromkeys(parts, 0)
        self._sleep = sleep

    async def keep(self, part: str, run: Run) -> None:
        """Run a part until cancelled; it is to end in no other way."""
        loop = asyncio.get_running_loop()
        pause_s = 0.0
        while True:
            began_s = loop.time()
            failure: Exception | None = None
            try:
                # A group of tasks that fails as we are cancelled forgets that we were.
                await cancellable(run())
            except Exception as error:
                failure = error
            lived_s = loop.time() - began_s if pause_s else inf
            pause_s = FIRST_S if lived_s >= WELL_AFTER_S else min(2 * pause_s, LONGEST_S)
            log.error(
                "a part failed and begins again; all else goes on",
                part=part,
                reason=repr(failure) if failure is not None else "it ended",
                pause_s=pause_s,
                exc_info=failure,
            )
            self.counts[part] += 1
            await self._sleep(pause_s)


class RestartsCollector(Collector):
    """Shows how often parts began again, when scraped."""

    def __init__(self, restarts: Restarts) -> None:
        self._restarts = restarts

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        family = CounterMetricFamily(
            "penstock_part_restarts",
            "How often a part of a process failed unforeseen, and began again.",
            labels=["part"],
        )
        for part, count in self._restarts.counts.items():
            family.add_metric([part], count)
        yield family

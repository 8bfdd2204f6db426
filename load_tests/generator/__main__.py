"""The load generator, a process of its own: `python -m load_tests.generator PLAN OUTCOMES`.

An open loop sends at times that were drawn beforehand, whatever the server does; a closed one
sends when an answer has come. Started and read by `open_loop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import time
from pathlib import Path

import uvloop

from load_tests.generator.arrivals import poisson_arrivals
from load_tests.generator.connections import Connections
from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.generator.precise_timer import PreciseTimer
from load_tests.generator.tally import Tally

OPENED_BEFOREHAND = 64
NICER = -10
"""Where we may: on few cores it is to be the server that waits, not those who ask it."""

LEAD_S = 0.05
"""Between the last preparation and the first intended time."""


async def run_plan(plan: LoadPlan) -> Outcomes:
    """Carry a plan out."""
    return await (_OpenLoop(plan) if plan.rate_rps else _ClosedLoop(plan)).run()


class _Loop:
    """What both have: connections, a tally, an end."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._tally = Tally(len(plan.requests))
        self._all_ended = asyncio.Event()
        self._all_sent = False
        self._connections = Connections(
            plan.port,
            plan.requests,
            self._tally,
            plan.connections,
            keep_answers=plan.keep_answers,
            on_end=self._on_end,
        )

    def _on_end(self) -> None:
        if self._all_sent and not self._tally.open:
            self._all_ended.set()

    async def _drain(self, began_at: float) -> Outcomes:
        """Everything is sent: wait for what is owed, within bounds."""
        self._all_sent = True
        self._on_end()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_ended.wait(), self._plan.drain_s)
        outcomes = self._tally.close(began_at, self._plan.duration_s, time.monotonic())
        self._connections.close()
        return outcomes


class _OpenLoop(_Loop):
    """Sends by the clock."""

    def __init__(self, plan: LoadPlan) -> None:
        super().__init__(plan)
        self._offsets = poisson_arrivals(plan.rate_rps, plan.duration_s, plan.seed).tolist()
        self._next = 0
        self._began_at = 0.0
        self._timer = PreciseTimer()
        self._sent = asyncio.Event()

    async def run(self) -> Outcomes:
        await self._connections.open_some(OPENED_BEFOREHAND)
        self._began_at = time.monotonic() + LEAD_S
        loop = asyncio.get_running_loop()
        loop.add_reader(self._timer.descriptor, self._on_timer)
        self._set_timer()
        await self._sent.wait()
        loop.remove_reader(self._timer.descriptor)
        self._timer.close()
        return await self._drain(self._began_at)

    def _on_timer(self) -> None:
        self._timer.acknowledge()
        self._set_timer()

    def _set_timer(self) -> None:
        """Send what is due, then wait for the next."""
        while self._next < len(self._offsets):
            intended = self._began_at + self._offsets[self._next]
            now = time.monotonic()
            if intended > now:
                self._timer.set(intended)
                return
            self._next += 1
            self._connections.send(self._tally.begin(intended, now))
        self._sent.set()


class _ClosedLoop(_Loop):
    """As many requests at a time as there are connections."""

    async def run(self) -> Outcomes:
        await self._connections.open_some(self._plan.connections)
        began_at = time.monotonic()
        for _ in range(self._plan.connections):
            self._send()
        await asyncio.sleep(self._plan.duration_s)
        return await self._drain(began_at)

    def _send(self) -> None:
        now = time.monotonic()
        self._connections.send(self._tally.begin(now, now))

    def _on_end(self) -> None:
        if self._all_sent:
            super()._on_end()
        else:
            self._send()


def main() -> None:
    """Read the plan, carry it out, write what became of it."""
    plan = LoadPlan.read(Path(sys.argv[1]))
    with contextlib.suppress(PermissionError):
        os.nice(NICER)
    gc.disable()  # a collection would be a pause of ours; one run's garbage fits into memory
    uvloop.run(run_plan(plan)).write(Path(sys.argv[2]))


if __name__ == "__main__":
    main()

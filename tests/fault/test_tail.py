"""Replicas that stop, are slow at times, or refuse: what the others make of it.

Timings of a shared machine are noisy, so hedging on is compared with hedging off, on the same
replicas and one after the other; a comparison that fails is made once more before the test fails.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.samples import Sample

from load_tests.generator.load_plan import Outcomes
from load_tests.report.percentiles import percentile
from penstock.gateway.inference.service import InferenceService
from penstock.shared.contracts.routing import HedgePolicy
from tests.fault.calls import OpenCalls
from tests.fault.refusing import refusing_peers
from tests.fault.served import Served, at_second_try, by_label, checked, served
from tests.support import mlflow_models, models
from tests.support.data_plane import data_plane
from tests.support.waiting import eventually

pytestmark = pytest.mark.alone

SHARE_MAX = 0.5
"""Of the p99 without hedging, what it may be with hedging."""

WARM_S = 2.0
"""Of each load: what a policy needs to take hold, and learned times to be learned."""

STOPPED_SLEEP_MS = 40.0
"""So long that what a stopped replica holds is more than 1% of the calls of three seconds: how
much it is varies, from 1% to 30%. With less, a p99 tells or does not tell of them by chance; for
the same reason, the calls after several stops are taken together."""

STOPPED_BATCH = 8
STOPPED_RATE = 0.4 * 2 * STOPPED_BATCH / (STOPPED_SLEEP_MS / 1000)
"""40% of what two replicas can do: 160 requests per second."""

GENERATOR_STARTS_S = 1.0
WATCHED_S = 3.0
"""After the stop; calls that are scheduled in that time are compared."""


def after_the_stop_ms(system: Served, stop_s: float, seed: int) -> NDArray[np.float64]:
    """Stop one of two replicas under load: how long the requests after that take; none may fail.

    What was in the stopped replica runs again alone, one after the other: only once that is done
    may a replica be stopped again, since a second loss is final.
    """
    pid = system.children[seed % 2].process.pid
    plan = system.plan(STOPPED_RATE, WARM_S + stop_s + 1.0, seed)
    with system.loaded(plan) as generator:
        time.sleep(WARM_S + GENERATOR_STARTS_S)
        stopped_at = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(stop_s)
        finally:
            os.kill(pid, signal.SIGCONT)
        outcomes = checked(generator.outcomes())
    assert outcomes.errors() == {}
    system.until_ready("m", 2)
    return latencies_ms(outcomes, stopped_at - outcomes.began_at, WATCHED_S)


def latencies_ms(outcomes: Outcomes, first_s: float, length_s: float) -> NDArray[np.float64]:
    """Of the requests that were scheduled in a part of a load."""
    at = outcomes.intended_s
    watched = outcomes.latency_ms[outcomes.ok & (at >= first_s) & (at < first_s + length_s)]
    assert len(watched) > 100, "too few to speak of a p99"
    return watched


def p99_with_stops(
    system: Served, policy: HedgePolicy, stops: int, stop_s: float, seed: int
) -> float:
    """Of the requests after several stops, in milliseconds."""
    system.set_hedging(system.children, policy)
    after = [after_the_stop_ms(system, stop_s, 10 * seed + stop) for stop in range(stops)]
    return percentile(np.concatenate(after), 99)


def compare_stopped(folder: Path, stops: int, stop_s: float) -> None:
    """Without hedging and with it."""
    mlflow_models.sleepy(folder / "m", STOPPED_SLEEP_MS)
    with served(folder / "gateway.log") as system:
        system.join(folder / "m", 2, max_batch_size=STOPPED_BATCH)

        def compare(seed: int) -> None:
            off_ms = p99_with_stops(system, "off", stops, stop_s, seed)
            before = system.samples()
            on_ms = p99_with_stops(system, "auto", stops, stop_s, seed)
            print(f"seed {seed}: p99 {on_ms:.0f} ms with hedging, {off_ms:.0f} ms without")
            print(hedges(system, before))
            assert on_ms <= SHARE_MAX * off_ms, f"p99 {on_ms:.0f} ms on, {off_ms:.0f} ms off"

        at_second_try(compare)


@pytest.mark.long
def test_a_replica_that_is_stopped_fails_nothing_and_hedging_halves_the_tail(
    tmp_path: Path,
) -> None:
    compare_stopped(tmp_path, 3, WATCHED_S)


@pytest.mark.slow
def test_a_replica_that_is_stopped_for_ten_seconds(tmp_path: Path) -> None:
    compare_stopped(tmp_path, 4, 10.0)


def hedges(system: Served, before: Sequence[Sample]) -> str:
    """What became of hedges since, in words."""
    samples = system.samples()
    done = by_label(samples, before, "penstock_dispatch_hedges_total")
    denied = by_label(samples, before, "penstock_dispatch_hedges_denied_total")
    return f"hedges {done}, denied {denied}"


SLOW_REPLICAS = 3
SLOW_BATCH = 1
SLOW_LOAD = 0.3
SLOW_TURNS = 3
"""Off and on in turn, so often; medians are compared."""

EXTRA_MAX = 0.06
"""Attempts beyond one for each call, as a share of calls."""


def p99_with_slow_batches(
    system: Served, policy: HedgePolicy, rate_rps: float, seconds: float, seed: int
) -> tuple[float, float]:
    """The p99 in milliseconds, and extra attempts as a share of calls."""
    system.set_hedging(system.children, policy)
    before = system.metric("penstock_dispatch_attempts_total")
    outcomes = system.load(system.plan(rate_rps, WARM_S + seconds, seed))
    attempts = system.metric("penstock_dispatch_attempts_total") - before
    assert outcomes.errors() == {}
    calls = len(outcomes.intended_s)
    return percentile(latencies_ms(outcomes, WARM_S, seconds), 99), attempts / calls - 1.0


def compare_slow(folder: Path, seconds: float) -> None:
    """Without hedging and with it."""
    mlflow_models.sleepy(folder / "m", 5.0, 50.0, 0.01)
    with served(folder / "gateway.log") as system:
        system.join(folder / "m", SLOW_REPLICAS, max_batch_size=SLOW_BATCH)
        capacity = system.capacity_rps(4 * SLOW_REPLICAS * SLOW_BATCH, 2.0)
        rate = SLOW_LOAD * capacity

        def compare(seed: int) -> None:
            off_ms: list[float] = []
            on_ms: list[float] = []
            extras: list[float] = []
            before = system.samples()
            for turn in range(SLOW_TURNS):
                off, _ = p99_with_slow_batches(system, "off", rate, seconds, 10 * seed + turn)
                on, extra = p99_with_slow_batches(system, "auto", rate, seconds, 10 * seed + turn)
                off_ms.append(off)
                on_ms.append(on)
                extras.append(extra)
            on, off, extra = median(on_ms), median(off_ms), median(extras)
            print(
                f"seed {seed}: {rate:.0f} of {capacity:.0f} requests per second; p99 {on:.0f} ms "
                f"with hedging, {off:.0f} ms without; {extra:.1%} more attempts than calls"
            )
            print(hedges(system, before))
            assert extra <= EXTRA_MAX, f"{extra:.1%} more attempts than calls"
            assert on <= SHARE_MAX * off, f"p99 {on:.0f} ms on, {off:.0f} ms off"

        at_second_try(compare)


@pytest.mark.long
def test_hedging_halves_the_tail_of_batches_that_are_slow_at_times(tmp_path: Path) -> None:
    compare_slow(tmp_path, 4.0)


@pytest.mark.slow
def test_hedging_halves_the_tail_for_a_minute(tmp_path: Path) -> None:
    compare_slow(tmp_path, 60.0)


REFUSING = 2
REFUSED_RATE = 150.0
ATTEMPTS_PER_CALL_MAX = 1.25
SCALE = 3.0


def sent(service: InferenceService) -> int:
    """Attempts until now."""
    return service.counters.first_attempts + sum(service.counters.more_attempts.values())


def refused(service: InferenceService) -> int:
    """Nacks until now."""
    return sum(service.counters.nacks.values())


async def refuse(folder: Path, seconds: float, seed: int) -> None:
    """Two real replicas, and two peers that answer for a while and then refuse everything."""
    models.affine(folder, SCALE)
    async with data_plane() as plane:
        await asyncio.gather(*[plane.join(folder) for _ in range(REFUSING)])
        service = plane.service
        interface = service.metadata("m", None).interface
        with refusing_peers(plane.endpoint, REFUSING, interface, SCALE) as peers:
            await eventually(lambda: sum(service.ready_counts().values()) == 2 * REFUSING)
            calls = OpenCalls(service, REFUSED_RATE, 1.0, seed)
            sending = asyncio.create_task(calls.run(1.0 + 1.0 + seconds))
            await asyncio.sleep(1.0)
            for peer in peers:
                peer.refusing.set()
            await asyncio.sleep(1.0)
            began, attempts, nacks = time.monotonic(), -sent(service), -refused(service)
            await asyncio.sleep(seconds - 0.2)
            counted = calls.between(began, time.monotonic())
            attempts, nacks = attempts + sent(service), nacks + refused(service)
            await sending
    for call in calls.sent:
        call.check(SCALE)
    codes = Counter(call.code for call in counted)
    print(f"seed {seed}: {len(counted)} calls, {attempts} attempts, {nacks} refused; {codes}")
    assert nacks < len(counted), "something was to be refused, and not all"
    assert attempts <= ATTEMPTS_PER_CALL_MAX * len(counted)


async def test_replicas_that_refuse_cost_few_attempts(tmp_path: Path) -> None:
    await refuse(tmp_path / "m", 4.0, 1)


@pytest.mark.slow
async def test_replicas_that_refuse_for_a_minute(tmp_path: Path) -> None:
    await refuse(tmp_path / "m", 60.0, 2)

"""More than can be done: what is accepted is answered in time, the rest is refused at once.

The model sleeps, so that a replica is the bottleneck and not the processors, which are shared.
Figures of a shared machine are noisy: what fails is tried once more before the test fails.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from load_tests.report.percentiles import percentile
from tests.fault.retrying import (
    DEADLINE_S,
    EXPIRED,
    OK,
    Asked,
    HurriedClients,
    goodput_rps,
    p99_s,
)
from tests.fault.served import LateGeneratorError, Served, at_second_try, checked, served, total
from tests.support import mlflow_models

pytestmark = pytest.mark.alone

SLEEP_MS = 20.0
BATCH = 8
GOODPUT_MIN = 0.9
"""Of the capacity, while more than that is asked for."""

SHED_S_MAX = 0.01
"""For 99% of what is refused, at the server."""

EXPIRED_MAX = 0.01
"""Of what was accepted: not answered within the client's deadline."""

SETTLED_S = 2.0
"""After an overload; then latency is to be as it was before."""

NORMAL_FACTOR = 1.5
NORMAL_SLACK_S = 0.03
"""By how much a p99 of one and the same load differs from one time to the next on a machine that
others use too: a batch more, and a time slice."""

RAMP_S = 1.0
LAG_S_MAX = 0.05
"""Our own lateness (p99) from which on we show nothing: a tenth of the deadline."""

NOT_SHED = ("ok", "deadline_exceeded", "cancelled")
"""Outcomes of requests that were accepted; each of them takes longer than a refusal may."""


@dataclass(frozen=True)
class Requests:
    """What the gateway has counted."""

    slower: float
    accepted: float
    shed: float

    def since(self, before: Requests) -> Requests:
        """What came in between."""
        return Requests(
            self.slower - before.slower, self.accepted - before.accepted, self.shed - before.shed
        )

    @property
    def shed_slowly(self) -> float:
        """Refusals that took longer than they may: all that took so long but was accepted not."""
        return max(self.slower - self.accepted, 0.0)


def requests_of(system: Served, model: str) -> Requests:
    """Requests until now, by what became of them at the server."""
    samples = system.samples()
    seconds = "penstock_gateway_request_seconds"
    in_time = total(samples, f"{seconds}_bucket", model=model, le=str(SHED_S_MAX))
    everything = total(samples, f"{seconds}_count", model=model)
    accepted = sum(
        total(samples, "penstock_gateway_requests_total", model=model, code=code)
        for code in NOT_SHED
    )
    return Requests(everything - in_time, accepted, everything - accepted)


async def overload(
    system: Served, clients: HurriedClients, capacity: float, load: float, seconds: float
) -> None:
    """Ask for more than the capacity, then for half of it."""
    normal = await clients.call(0.5 * capacity, RAMP_S + SETTLED_S)
    before = await asyncio.to_thread(requests_of, system, "m")
    began = time.monotonic()
    asked = await clients.call(load * capacity, seconds)
    counted = (await asyncio.to_thread(requests_of, system, "m")).since(before)
    after = await clients.call(0.5 * capacity, 2 * SETTLED_S)
    check_on_time([*normal, *asked, *after])

    goodput = goodput_rps(asked, began + RAMP_S, began + seconds)
    statuses = Counter(status for one in asked for status in one.statuses)
    normal_s = p99_s(since(normal, RAMP_S))
    settled_s = p99_s(since(after, SETTLED_S))
    print(
        f"{load:.0%} of {capacity:.0f} per second: goodput {goodput / capacity:.0%}; attempts by "
        f"status {dict(statuses)}; accepted p99 {p99_s(asked) * 1e3:.0f} ms; {counted.shed:.0f} "
        f"shed, {counted.shed_slowly:.0f} of them slowly; p99 at 50% {normal_s * 1e3:.0f} ms "
        f"before, {settled_s * 1e3:.0f} ms after"
    )
    assert goodput >= GOODPUT_MIN * capacity, f"goodput {goodput / capacity:.0%} of the capacity"
    assert set(statuses) <= {OK, 429, 503, EXPIRED}
    assert statuses[EXPIRED] <= EXPIRED_MAX * (statuses[OK] + statuses[EXPIRED])
    assert p99_s(asked) <= DEADLINE_S
    assert counted.shed > 0, "nothing was shed, so nothing is shown"
    assert counted.shed_slowly <= 0.01 * counted.shed
    assert settled_s <= NORMAL_FACTOR * normal_s + NORMAL_SLACK_S


def since(asked: Sequence[Asked], seconds: float) -> list[Asked]:
    """Calls from some time after the first on."""
    return [one for one in asked if one.intended >= asked[0].intended + seconds]


def check_on_time(asked: Sequence[Asked]) -> None:
    """Raises: LateGeneratorError: if we did not send when we wanted to."""
    lag_s = sorted(one.lag_s for one in asked)[int(0.99 * len(asked))]
    if lag_s > LAG_S_MAX:
        raise LateGeneratorError(f"the clients were {lag_s * 1e3:.0f} ms late (p99)")


def overloads(folder: Path, seconds: float) -> None:
    """Both overloads of the same system."""
    mlflow_models.sleepy(folder / "m", SLEEP_MS)
    with served(folder / "gateway.log") as system:
        system.join(folder / "m", 1, max_batch_size=BATCH)
        capacity = system.capacity_rps(4 * BATCH, 2.0)

        async def play(load: float, seed: int) -> None:
            clients = HurriedClients(system.port, "m", seed)
            await overload(system, clients, capacity, load, seconds)
            clients.close()

        for load in (1.2, 2.0):
            at_second_try(lambda seed, load=load: asyncio.run(play(load, 10 * seed)))  # type: ignore[misc]


@pytest.mark.long
def test_overload_is_shed_and_the_rest_is_answered_in_time(tmp_path: Path) -> None:
    overloads(tmp_path, 6.0)


@pytest.mark.slow
def test_overload_for_half_a_minute(tmp_path: Path) -> None:
    overloads(tmp_path, 30.0)


FLOOD = 3.0
"""Of the flooded model's capacity."""

QUIET_LOAD = 0.3
FAIR_BATCH = 4
FAIR_FACTOR = 1.5
FAIR_SLACK_MS = 20.0
"""What both models share beside the processors is the gateway's event loop. A flood that is shed
takes well under half of that, so a request waits in it for some milliseconds at most; the rest of
this is for a p99 of some hundred calls, which differs by a batch from one time to the next."""


def quiet_p99_ms(system: Served, rate: float, seconds: float, seed: int) -> float:
    """Of the model that nobody floods."""
    outcomes = system.load(system.plan(rate, seconds, seed, model="quiet"))
    assert outcomes.errors() == {}
    return percentile(outcomes.latency_ms[outcomes.ok], 99)


def fairness(folder: Path, seconds: float) -> None:
    """A quiet model beside a flooded one: in the same system, and in one of its own.

    The flood of the other system takes as much of the processors, but shares nothing of Penstock.
    """
    mlflow_models.sleepy(folder / "m", SLEEP_MS)
    with served(folder / "one.log") as ours, served(folder / "other.log") as other:
        ours.join(folder / "m", 1, model="quiet", max_batch_size=FAIR_BATCH)
        for system in (ours, other):
            system.join(folder / "m", 1, model="flooded", max_batch_size=FAIR_BATCH)
        capacity = ours.capacity_rps(4 * FAIR_BATCH, 2.0, model="flooded")
        rate = QUIET_LOAD * capacity

        def compare(seed: int) -> None:
            alone_ms = quiet_p99_ms(ours, rate, seconds, seed)
            p99_ms = {}
            for name, system in (("beside", other), ("within", ours)):
                plan = system.plan(
                    FLOOD * capacity, seconds + 3.0, seed, model="flooded", timeout_s=1.0
                )
                with system.loaded(plan) as flood:
                    time.sleep(2.0)  # until it floods
                    p99_ms[name] = quiet_p99_ms(ours, rate, seconds, seed)
                    sheds = checked(flood.outcomes()).errors()
            print(
                f"seed {seed}: p99 {alone_ms:.0f} ms alone, {p99_ms['beside']:.0f} ms beside "
                f"another system's flood of {FLOOD * capacity:.0f} requests per second, "
                f"{p99_ms['within']:.0f} ms beside its own system's ({sheds})"
            )
            most_ms = FAIR_FACTOR * p99_ms["beside"] + FAIR_SLACK_MS
            assert p99_ms["within"] <= most_ms, f"p99 {p99_ms['within']:.0f} ms"

        at_second_try(compare)


@pytest.mark.long
def test_one_models_flood_does_not_slow_another_down(tmp_path: Path) -> None:
    fairness(tmp_path, 3.0)


@pytest.mark.slow
def test_one_models_flood_does_not_slow_another_down_for_long(tmp_path: Path) -> None:
    fairness(tmp_path, 60.0)

"""Seeded runs of the real cores in a bad world: `SEED=n pytest ...` replays one."""

from __future__ import annotations

import os

import pytest

from gateway.commands import Answered, Failed
from shared.errors import ErrorCode
from tests.simulation.world import DEATH, POISON, Weather, World

CALLS = 150
RUN_S = 3.0
SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else range(60)

FAIR = Weather()
STORM = Weather(drop=0.05, duplicate=0.05, delay_s=0.1, crash=0.5, flip=0.5, cut=0.7)


def play(seed: int, weather: Weather, special: list[float]) -> World:
    """Run calls through a world until all is quiet again."""
    world = World(seed, weather)
    rng = world.rng
    values = [float(n + 1) for n in range(CALLS - len(special))] + special
    rng.shuffle(values)
    for number, value in enumerate(values):
        gateway = rng.choice(list(world.gateways.values()))
        when, budget_s = rng.uniform(0.3, RUN_S), rng.choice([0.05, 0.5, 5.0])
        budget_s = 20.0 if value in (POISON, DEATH) else budget_s
        world.at(when, lambda g=gateway, n=number, v=value, b=budget_s: world.submit(g, n, v, b))  # type: ignore[misc]
        if rng.random() < 0.05:
            world.at(when + 0.01, lambda g=gateway, n=number: cancel(world, g.name, n))  # type: ignore[misc]
    for second in range(int(RUN_S)):
        if rng.random() < weather.crash:
            world.at(second + rng.random(), lambda: world.crash(alive(world)))
        if rng.random() < weather.cut:
            world.at(second + rng.random(), world.cut)
        if rng.random() < weather.flip:
            world.at(second + rng.random(), world.swap)
    world.run_until(RUN_S)
    world.calm = True
    world.run_until(RUN_S + 30.0)
    return world


def alive(world: World):  # type: ignore[no-untyped-def]
    return world.rng.choice([r for r in world.replicas.values() if r.alive])


def cancel(world: World, gateway: str, number: int) -> None:
    if (gateway, number) not in world.outcomes and (gateway, number) in world.inputs:
        world.gateways[gateway].carry_out(world.gateways[gateway].dispatch.cancel(number))
        del world.inputs[gateway, number]


def check_quiet(world: World) -> None:
    """Every call resolved once, and nothing is remembered of any."""
    assert set(world.outcomes) == set(world.inputs)
    for gateway in world.gateways.values():
        assert len(gateway.dispatch) == 0
        assert gateway.dispatch.next_deadline() is None
        assert all(not replica.attempts for replica in gateway.replicas)
    for replica in world.replicas.values():
        if replica.alive:
            assert replica.session.queued_rows == 0
            assert replica.session.executing_rows == 0


def failures(world: World) -> dict[tuple[str, int], ErrorCode]:
    found = {}
    for key, outcome in world.outcomes.items():
        if isinstance(outcome, Failed):
            found[key] = outcome.error.code
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_storm_every_call_resolves_once_on_time_and_right(seed: int) -> None:
    world = play(seed, STORM, [POISON] * 3)
    check_quiet(world)
    assert sum(isinstance(outcome, Answered) for outcome in world.outcomes.values()) > CALLS / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_in_fair_weather_only_the_poisoned_and_the_hurried_fail(seed: int) -> None:
    world = play(seed, FAIR, [POISON] * 3)
    check_quiet(world)
    for key, code in failures(world).items():
        hurried = code is ErrorCode.DEADLINE_EXCEEDED
        assert hurried or world.inputs[key][0] == POISON


@pytest.mark.parametrize("seed", SEEDS)
def test_a_query_of_death_kills_two_replicas_at_most_and_fails_alone(seed: int) -> None:
    world = play(seed, FAIR, [DEATH])
    check_quiet(world)
    assert world.deaths <= 2
    for key, code in failures(world).items():
        value, _ = world.inputs[key]
        assert (value == DEATH) == (code is ErrorCode.REPLICA_CRASHED)
        assert value == DEATH or code is ErrorCode.DEADLINE_EXCEEDED

"""Scenarios of the simulated world: what befalls it, by seed, and what must hold at the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from penstock.gateway.dispatch.attempts import AttemptReason
from penstock.gateway.dispatch.commands import Answered, CallFailed
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.contracts.routing import HedgePolicy
from tests.simulation.world import DEATH, POISON, SimulatedGateway, Weather, World

CALLS = 150
RUN_S = 3.0
CALM_S = 30.0
"""After the run, in good weather: the longest deadline and what a suspect may wait."""

STRAGGLERS_S = 1.0
"""Longer than any message is under way."""

FAIR = Weather()

IN_A_HURRY = (ErrorCode.DEADLINE_EXCEEDED, ErrorCode.QUEUE_FULL)
"""How calls fail that have no time to wait: not let in, or too late."""


@contextmanager
def replayable(seed: int) -> Iterator[None]:
    """Whatever fails in the block says which seed shows it again."""
    try:
        yield
    except Exception as error:
        error.add_note(f"seed {seed}: replay it with SEED={seed} pytest tests/simulation")
        raise


def play(
    seed: int, weather: Weather, special: list[float], hedge: HedgePolicy | None = None
) -> World:
    """Run calls through a world until all is quiet again; None: the seed says how it hedges."""
    world = World(seed, weather)
    if hedge is not None:
        world.hedge = hedge
        world.flip_to(world.version)
    _submit_calls(world, special)
    for second in range(int(RUN_S)):
        _befall(world, second)
    world.run_until(RUN_S)
    world.calm = True
    world.run_until_quiet(RUN_S + CALM_S)
    return world


def bad_weather(seed: int) -> Weather:
    """Some of all that can go wrong: each seed has a mixture of its own."""
    rng = random.Random(seed)
    return Weather(
        drop=rng.choice([0.0, 0.02, 0.1]),
        duplicate=rng.choice([0.0, 0.05, 0.2]),
        delay_s=rng.choice([0.001, 0.02, 0.1]),
        crash=rng.choice([0.0, 0.5, 1.0]),
        flip=rng.choice([0.0, 0.5]),
        cut=rng.choice([0.0, 0.7]),
        pause=rng.choice([0.0, 0.7]),
        step=rng.choice([0.0, 1.0]),
        drift=rng.choice([0.0, 0.001, 0.05]),
        slow=rng.choice([0.0, 0.05]),
        queue_rows=rng.choice([3, 200]),
        queue_timeout_ms=rng.choice([None, 30.0, 300.0]),
        retries=rng.random() < 0.5,
    )


def _submit_calls(world: World, special: list[float]) -> None:
    rng = world.rng
    values = [float(n + 1) for n in range(CALLS - len(special))] + special
    rng.shuffle(values)
    gateways = list(world.gateways.values())
    for number, value in enumerate(values):
        gateway = rng.choice(gateways)
        when, budget_s = rng.uniform(0.3, RUN_S), rng.choice([0.05, 0.5, 5.0])
        budget_s = 20.0 if value in (POISON, DEATH) else budget_s
        world.at(when, partial(world.submit, gateway, number, value, budget_s))
        if rng.random() < 0.05:
            world.at(when + 0.01, partial(_cancel, world, gateway, number))


def _befall(world: World, second: int) -> None:
    """What happens in one second."""
    rng, weather = world.rng, world.weather
    step_s, pause_s = rng.choice([0.01, 0.3, 2.0]), rng.choice([0.05, 0.5, 2.0])
    for chance, event in (
        (weather.crash, partial(_crash, world)),
        (weather.cut, world.cut),
        (weather.flip, world.swap),
        (weather.pause, partial(world.pause, pause_s)),
        (weather.step, partial(world.step_a_clock, step_s)),
    ):
        if rng.random() < chance:
            world.at(second + rng.random(), event)


def _crash(world: World) -> None:
    living = world.living()
    if living:
        world.crash(world.rng.choice(living))


def _cancel(world: World, gateway: SimulatedGateway, number: int) -> None:
    key = (gateway.name, number)
    if key not in world.outcomes and key in world.inputs:
        gateway.carry_out(gateway.dispatch.cancel(number))
        del world.inputs[key]


def check_quiet(world: World) -> None:
    """Every call resolved once, nothing is remembered of any, and every queue is empty."""
    assert set(world.outcomes) == set(world.inputs)
    for gateway in world.gateways.values():
        assert gateway.is_quiet(), gateway.dispatch
        assert gateway.dispatch.next_deadline() is None
        gateway.check_budgets()
    for replica in world.living():
        assert replica.session.queued_rows == 0
        assert replica.session.executing_rows == 0


def check_recovered(world: World) -> None:
    """All is well again by itself: each gateway answers what it is asked now.

    First what the storm still has under way arrives. Here messages overtake each other, which they
    do not on a connection: a question who a replica is that comes after a request loses that.
    """
    world.run_until(world.now + STRAGGLERS_S)
    for gateway in world.gateways.values():
        world.submit(gateway, CALLS, 1.0, 10.0)
    world.run_until_quiet(world.now + CALM_S)
    check_quiet(world)
    for name in world.gateways:
        assert isinstance(world.outcomes[name, CALLS], Answered)


def failures(world: World) -> dict[tuple[str, int], ErrorCode]:
    """Why calls failed."""
    return {
        key: outcome.error.code
        for key, outcome in world.outcomes.items()
        if isinstance(outcome, CallFailed)
    }


def storm(seed: int) -> None:
    """Whatever happens, every call resolves once, on time and right."""
    with replayable(seed):
        world = play(seed, bad_weather(seed), [POISON] * 3)
        check_quiet(world)
        answered = sum(isinstance(outcome, Answered) for outcome in world.outcomes.values())
        assert answered > CALLS / 5, "too bad a world shows nothing"
        check_recovered(world)


def fair(seed: int) -> None:
    """Where nothing goes wrong, only the poisoned and the hurried fail, and attempts are few."""
    with replayable(seed):
        world = play(seed, FAIR, [POISON] * 3)
        check_quiet(world)
        for key, code in failures(world).items():
            assert code in IN_A_HURRY or world.inputs[key][0] == POISON
        for gateway in world.gateways.values():
            counters = gateway.dispatch.counters
            assert counters.first_attempts <= gateway.calls
            hedges = counters.more_attempts[AttemptReason.HEDGE]
            assert gateway.attempts == counters.first_attempts + hedges


def death(seed: int, hedge: HedgePolicy, deaths_max: int) -> None:
    """A query of death kills few replicas, and fails alone."""
    with replayable(seed):
        world = play(seed, FAIR, [DEATH], hedge)
        check_quiet(world)
        assert world.deaths <= deaths_max
        for key, code in failures(world).items():
            value, _ = world.inputs[key]
            assert (value == DEATH) == (code is ErrorCode.REPLICA_CRASHED)
            assert value == DEATH or code in IN_A_HURRY

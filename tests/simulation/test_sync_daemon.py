"""Whole registry_sync daemons in a bad world: none stops listening, and what serves goes on.

`SEED=n pytest ...` replays one of the storms.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.simulation.sync_faults import FAULTS, HARMLESS, Fault
from tests.simulation.sync_world import BESIDE, SyncWorld
from tests.simulation.test_simulation import seeds
from tests.simulation.virtual_time import MONOTONIC, in_virtual_time

STORM_FAULTS = 8


def played(scenario: Callable[[SyncWorld], Awaitable[None]], seed: int = 0) -> list[Any]:
    """Play a scenario with two daemons, once a first version serves; returns what is logged."""

    async def play() -> None:
        world = SyncWorld(random.Random(seed))
        try:
            world.start("a")
            world.start("b")
            await world.until_served("1", 10.0)
            await world.pass_time(5.0)
            assert await world.version_of(BESIDE) == "1"
            await scenario(world)
        finally:
            await world.close()

    with capture_logs() as logs:
        in_virtual_time(play)
    return logs


async def endure(world: SyncWorld, fault: Fault, lasts_s: float, version: str) -> None:
    """Have a fault, edit meanwhile, and see that it is noticed after the fault at the latest."""
    fault.begin(world)
    await world.pass_time(lasts_s / 2)
    world.registry.set_stable(version)
    await world.pass_time(lasts_s / 2)
    fault.end(world)
    polls = world.registry.polls
    hung_s = world.clock.monotonic() - MONOTONIC if fault.lasting else 0.0
    await world.until_served(version, fault.within_s + hung_s)
    await world.pass_time(10.0)
    assert world.registry.polls > polls


@pytest.mark.parametrize(
    ("name", "lasts_s"),
    [
        *((name, lasts_s) for name in FAULTS for lasts_s in (4.0, 90.0)),
        *((name, 400.0) for name in FAULTS if "hang" in name),
    ],
)
def test_after_every_fault_the_registry_is_heard_again(name: str, lasts_s: float) -> None:
    async def scenario(world: SyncWorld) -> None:
        await endure(world, FAULTS[name], lasts_s, "2")
        await endure(world, FAULTS[name], lasts_s, "3")
        assert world.registry.hanging_most <= 8

    played(scenario)


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_what_need_not_stop_the_daemon_does_not(name: str) -> None:
    async def scenario(world: SyncWorld) -> None:
        FAULTS[name].begin(world)
        await world.pass_time(60.0)
        world.registry.set_stable("2")
        await world.until_served("2", HARMLESS[name])

    played(scenario)


def test_a_leader_that_is_killed_is_followed_by_one_that_listens() -> None:
    async def scenario(world: SyncWorld) -> None:
        for number in range(2, 6):
            leader = next(name for name, each in world.controllers.items() if each.leading)
            await world.stop(leader, killed=number % 2 == 0)
            world.registry.set_stable(str(number))
            await world.until_served(str(number), 20.0)
            world.start(leader + str(number))

    played(scenario)


def test_statuses_that_are_refused_are_tried_seldom() -> None:
    async def scenario(world: SyncWorld) -> None:
        world.registry.refuses = True
        world.registry.set_stable("2")
        await world.until_served("2", 30.0)
        writes = world.registry.writes
        await world.pass_time(600.0)
        assert world.registry.writes - writes <= 3 * (600 / 60 + 6)  # each version, by the minute

    played(scenario)


def test_a_fetch_that_raises_what_nobody_foresaw_is_tried_seldom() -> None:
    async def scenario(world: SyncWorld) -> None:
        FAULTS["fetches raise"].begin(world)
        asked = world.artifacts.asked
        world.registry.set_stable("2")
        await world.pass_time(100.0)
        assert 2 < world.artifacts.asked - asked < 10

    played(scenario)


def test_the_age_of_what_was_seen_is_told_while_the_registry_hangs() -> None:
    async def scenario(world: SyncWorld) -> None:
        await world.pass_time(100.0)
        assert max(each.registry_age_s for each in world.controllers.values()) < 10
        FAULTS["the registry hangs, and comes back"].begin(world)
        await world.pass_time(300.0)
        assert max(each.registry_age_s for each in world.controllers.values()) > 290
        assert max(each.hanging_calls for each in world.controllers.values()) > 0
        FAULTS["the registry hangs, and comes back"].end(world)
        await world.pass_time(10.0)
        assert max(each.registry_age_s for each in world.controllers.values()) < 10
        assert max(each.hanging_calls for each in world.controllers.values()) == 0

    played(scenario)


@pytest.mark.parametrize("seed", seeds(12))
def test_in_a_storm_of_faults_the_last_wish_comes_true(seed: int) -> None:
    async def scenario(world: SyncWorld) -> None:
        rng = world.rng
        lasted_s = 0.0
        for number in range(STORM_FAULTS):
            faults = [FAULTS[name] for name in rng.sample(sorted(FAULTS), 2)]
            for fault in faults:
                fault.begin(world)
            if rng.random() < 0.3:
                await world.stop(rng.choice(sorted(world.lines)), killed=rng.random() < 0.5)
                world.start(f"d{number}")
            world.registry.set_stable(str(number + 2))
            lasts_s = rng.choice([1.0, 5.0, 20.0, 90.0])
            lasted_s += lasts_s
            await world.pass_time(lasts_s)
            for fault in faults:
                fault.end(world)
            await world.pass_time(rng.choice([0.0, 2.0, 30.0]))
        # What hangs for ever keeps the next call waiting for as long as it has hung.
        await world.until_served(str(STORM_FAULTS + 1), 300.0 + 2 * lasted_s)

    played(scenario, seed)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("the registry is away", "HTTP 503 Service Unavailable"),
        ("the registry hangs, and comes back", "timed out after 60 s (the simulated registry)"),
        ("the source raises", "KeyError: 'name'"),
    ],
)
def test_what_is_wrong_with_the_registry_is_told_once_and_so_is_its_end(
    name: str, cause: str
) -> None:
    async def scenario(world: SyncWorld) -> None:
        FAULTS[name].begin(world)
        await world.pass_time(600.0)
        FAULTS[name].end(world)
        await world.pass_time(10.0)

    first, last = (each for each in played(scenario) if each.get("what") == "registry")
    assert (first["event"], first["error"]) == ("unavailable", cause)
    assert last["event"] == "available again"

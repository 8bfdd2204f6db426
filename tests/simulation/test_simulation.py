"""1,000 seeded runs of the real cores in a bad world: `SEED=n pytest ...` replays those of one.

A third of them, as of other properties' examples, are in `make test`; the rest is in `.ci/long`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.simulation import scenarios
from tests.support.examples import DEV_SHARE


def seeds(count: int) -> list[Any]:
    """Those to be played; the one that is asked for, if any is."""
    if "SEED" in os.environ:
        return [int(os.environ["SEED"])]
    few = count // DEV_SHARE
    return [*range(few), *(pytest.param(n, marks=pytest.mark.long) for n in range(few, count))]


@pytest.mark.parametrize("seed", seeds(700))
def test_in_a_storm_every_call_resolves_once_on_time_and_right(seed: int) -> None:
    scenarios.storm(seed)


@pytest.mark.parametrize("seed", seeds(100))
def test_in_fair_weather_only_the_poisoned_and_the_hurried_fail(seed: int) -> None:
    scenarios.fair(seed)


@pytest.mark.parametrize("seed", seeds(100))
def test_a_query_of_death_kills_two_replicas_at_most_and_fails_alone(seed: int) -> None:
    scenarios.death(seed, "off", 2)


@pytest.mark.parametrize("seed", seeds(100))
def test_a_query_of_death_fails_alone_where_calls_are_hedged(seed: int) -> None:
    """One that was hedged before its first replica died may kill another one in its last run."""
    scenarios.death(seed, 15.0, 3)

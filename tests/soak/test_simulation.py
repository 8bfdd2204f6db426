"""10,000 seeded runs of the simulated world, beyond those of `tests/simulation`."""

from __future__ import annotations

import pytest

from tests.simulation import scenarios

BLOCK = 500
"""Seeds in one test: a test for each would slow down every collection."""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 7000, BLOCK))
def test_storms(first: int) -> None:
    for seed in range(first, first + BLOCK):
        scenarios.storm(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, BLOCK))
def test_fair_weather(first: int) -> None:
    for seed in range(first, first + BLOCK):
        scenarios.fair(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 3000, BLOCK))
def test_queries_of_death(first: int) -> None:
    for seed in range(first, first + BLOCK):
        scenarios.death(seed, "off", 2)

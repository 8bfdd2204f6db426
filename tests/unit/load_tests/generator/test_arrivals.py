"""The schedule of an open loop."""

from __future__ import annotations

import numpy as np
import pytest

from load_tests.generator.arrivals import poisson_arrivals


def test_the_same_seed_gives_the_same_schedule() -> None:
    first, again = (poisson_arrivals(500, 4, seed=3) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, poisson_arrivals(500, 4, seed=4)[: len(first)])


@pytest.mark.parametrize(("rate_rps", "duration_s"), [(1000, 10), (3, 2), (0.1, 1)])
def test_it_is_in_order_and_within_the_run(rate_rps: float, duration_s: float) -> None:
    offsets = poisson_arrivals(rate_rps, duration_s, seed=1)
    assert np.all(np.diff(offsets) >= 0)
    assert np.all((offsets >= 0) & (offsets < duration_s))


def test_arrivals_are_poisson() -> None:
    offsets = poisson_arrivals(1000, 20, seed=1)
    assert len(offsets) == pytest.approx(20_000, abs=5 * 20_000**0.5)
    per_tick = np.bincount((offsets * 100).astype(int), minlength=2000)
    assert per_tick.var() == pytest.approx(per_tick.mean(), rel=0.15)
    last_gap = 20 - offsets[-1]
    assert last_gap < 0.05, "it reaches to the end of the run"


@pytest.mark.parametrize("rate_rps", [0, -1, 1e9])
def test_no_schedule_that_nobody_can_mean(rate_rps: float) -> None:
    with pytest.raises(ValueError, match="requests per second"):
        poisson_arrivals(rate_rps, 10, seed=1)

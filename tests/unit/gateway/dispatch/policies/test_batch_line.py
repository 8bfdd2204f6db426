"""The line through batches is the one that they lie on, and never a nonsensical one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.dispatch.policies.admission import BatchLine

BATCHES = st.lists(
    st.tuples(st.integers(1, 1024), st.floats(1e-5, 10.0), st.floats(0.01, 1.0)), min_size=1
)


@given(st.floats(0.001, 1.0), st.floats(0.0, 0.1), st.lists(st.integers(1, 64), min_size=5))
def test_batches_on_a_line_are_found_to_be(base_s: float, row_s: float, sizes: list[int]) -> None:
    line = BatchLine()
    for rows in [*sizes, 1, 64]:
        line.learn(rows, base_s + row_s * rows, 0.1)
    assert line.intercept_s == pytest.approx(base_s, rel=1e-3, abs=1e-6)
    assert line.slope_s == pytest.approx(row_s, rel=1e-3, abs=1e-6)


@given(BATCHES)
def test_time_never_falls_with_the_size_and_grows_at_most_in_proportion(
    batches: list[tuple[int, float, float]],
) -> None:
    line = BatchLine()
    for batch in batches:
        line.learn(*batch)
        assert line.slope_s >= 0
        assert line.intercept_s >= 0
    assert line.intercept_s + line.slope_s > 0


def test_of_one_size_others_are_taken_to_cost_the_same() -> None:
    line = BatchLine()
    for _ in range(10):
        line.learn(4, 0.02, 0.1)
    assert line.intercept_s == pytest.approx(0.02)
    assert line.slope_s == 0.0


def test_a_slope_that_was_known_stays_when_sizes_vary_no_more() -> None:
    line = BatchLine()
    for rows in (1, 8, 1, 8):
        line.learn(rows, 0.01 * rows, 0.1)
    for _ in range(100_000):
        line.learn(8, 0.08, 0.1)
    assert line.slope_s == pytest.approx(0.01, rel=0.01)


def test_a_change_is_followed() -> None:
    line = BatchLine()
    for rows in [1, 2, 4, 8] * 20:
        line.learn(rows, 0.01, 0.1)
    for rows in [1, 2, 4, 8] * 20:
        line.learn(rows, 0.1 + 0.01 * rows, 0.1)
    assert line.intercept_s == pytest.approx(0.1, rel=0.05)
    assert line.slope_s == pytest.approx(0.01, rel=0.05)

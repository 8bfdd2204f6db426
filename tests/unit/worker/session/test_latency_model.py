"""Estimates of execution time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.worker.session.latency_model import (
    SHAPE_CLASSES_MAX,
    WINDOW,
    LatencyModel,
    size_class,
)

observations = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10)), min_size=1)


def learned(seen: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel()
    for rows, seconds in seen:
        model.observe("shape", rows, seconds)
    return model


@given(observations, st.integers(1, 64))
def test_lower_never_exceeds_upper(seen: list[tuple[int, float]], rows: int) -> None:
    model = learned(seen)
    assert 0 <= model.lower("shape", rows) <= model.upper("shape", rows)


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=100))
def test_of_a_known_size_the_window_bounds_the_estimates(seconds: list[float]) -> None:
    model = learned([(4, s) for s in seconds])
    recent = seconds[-WINDOW:]
    assert model.lower("shape", 4) == min(recent)
    assert min(recent) <= model.upper("shape", 4) <= max(recent)


def test_one_outlier_among_many_is_not_what_planning_counts_on() -> None:
    model = learned([(1, 0.001)] * 30 + [(1, 5.0)])
    assert model.upper("shape", 1) == 0.001


def test_a_slow_model_is_believed_once_it_is_slow_repeatedly() -> None:
    model = learned([(1, 0.001)] * 30 + [(1, 5.0)] * 3)
    assert model.upper("shape", 1) == 5.0


def test_an_unknown_shape_is_assumed_free() -> None:
    model = learned([(1, 1.0)])
    assert model.upper("other", 1) == 0.0
    assert model.lower("other", 1) == 0.0


def test_unseen_sizes_are_bounded_by_their_neighbours() -> None:
    model = learned([(4, 0.004), (32, 0.010)])
    assert model.upper("shape", 8) == 0.008  # in proportion to the smaller one
    assert model.upper("shape", 16) == 0.010  # not more than the larger one
    assert model.upper("shape", 1) == 0.004


def test_shapes_that_were_not_used_for_long_are_forgotten() -> None:
    model = LatencyModel()
    for shape in range(SHAPE_CLASSES_MAX + 1):
        model.observe(shape, 1, 1.0)
    assert model.upper(0, 1) == 0.0
    assert model.upper(1, 1) == 1.0


def test_size_classes_are_powers_of_two() -> None:
    assert [size_class(rows) for rows in (1, 2, 3, 4, 5, 32, 33)] == [1, 2, 4, 4, 8, 32, 64]

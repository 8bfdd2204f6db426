"""Percentiles, and how several runs become one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.report.percentiles import Latency, latency_of, percentile
from load_tests.report.ratios import ratio_of
from load_tests.report.results import Point, merge


def test_a_percentile_is_a_latency_that_was_seen() -> None:
    values = np.arange(1.0, 101.0)
    assert [percentile(values, percent) for percent in (50, 90, 99, 99.9, 100)] == [
        *(50.0, 90.0, 99.0),
        *(100.0, 100.0),
    ]
    assert percentile(np.array([7.0]), 99) == 7.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50.0, 90.0, 99.0, 99.9]))
def test_so_many_are_at_or_below_a_percentile(values: list[float], percent: float) -> None:
    found = percentile(np.array(values), percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6
    assert sum(value < found for value in values) <= percent / 100 * len(values) + 1e-6


def test_without_answers_there_are_no_percentiles() -> None:
    assert math.isnan(latency_of(np.zeros(0)).p99_ms)


def point(goodput: float, p99: float, errors: dict[str, int], void: str = "") -> Point:
    return Point(
        server="ours",
        model="tiny",
        encoding="json",
        load="c=1",
        connections=1,
        duration_s=1.0,
        answered=int(goodput),
        goodput_rps=goodput,
        latency=Latency(1.0, 1.0, p99, p99, p99),
        errors=errors,
        cpu_us={"gateway": 1e6 / goodput},
        void=void,
    )


def test_repeats_become_medians_with_the_spread_and_all_errors() -> None:
    merged = merge([point(100, 5, {}), point(200, 9, {"timeout": 1}), point(400, 6, {"read": 2})])
    assert (merged.goodput_rps, merged.goodput_min, merged.goodput_max) == (200, 100, 400)
    assert merged.latency.p99_ms == 6
    assert merged.latency.max_ms == 9
    assert merged.errors == {"timeout": 1, "read": 2}
    assert merged.cpu_us == {"gateway": 5000.0}
    assert merged.repeats == 3


def test_a_void_run_counts_only_if_all_are_void() -> None:
    late = point(1, 900, {}, void="late")
    assert merge([late, point(100, 5, {})]).goodput_max == 100
    assert not merge([late, point(100, 5, {})]).void
    assert merge([late, late]).void == "late"


def test_a_ratio_is_of_the_medians_and_its_spread_of_the_pairs() -> None:
    ratio = ratio_of([2.0, 4.0, 6.0], [1.0, 4.0, 2.0])
    assert ratio is not None
    assert ratio.of_medians == pytest.approx(2.0)
    assert (ratio.low, ratio.high) == (1.0, 3.0)
    assert str(ratio) == "2.00 (1.50..2.50; 1.00..3.00)"


def test_no_ratio_to_what_answered_nothing() -> None:
    assert ratio_of([1.0, 1.0], [1.0, 0.0]) is None
    assert ratio_of([], []) is None

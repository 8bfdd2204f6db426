"""Learned delays are the percentiles they say they are, and hedges stay within their budget."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.dispatch.policies.hedging import (
    BUCKETS_PER_OCTAVE,
    WINDOW,
    HedgeBudget,
    HedgeDenial,
    HedgeFacts,
    HedgeSettings,
    Latencies,
    LatencyHistogram,
    hedge_delay,
    is_saturated,
    may_hedge,
)

SETTINGS = HedgeSettings()
WIDTH = 2 ** (1 / BUCKETS_PER_OCTAVE)
SAMPLES_MIN = SETTINGS.samples_min


def learned(times: list[float]) -> LatencyHistogram:
    histogram = LatencyHistogram(len(times))
    for seconds in times:
        histogram.observe(seconds)
    return histogram


def exact(times: list[float], quantile: float) -> float:
    return sorted(times)[math.ceil(quantile * len(times)) - 1]


@given(st.lists(st.floats(1e-4, 900), min_size=1, max_size=300))
def test_percentiles_are_within_a_bucket_and_never_too_low(times: list[float]) -> None:
    histogram = learned(times)
    for estimate, quantile in ((histogram.high_s, 0.95), (histogram.median_s, 0.5)):
        # At a whole rank either neighbour is the percentile: the estimate is of one of them.
        low, high = exact(times, quantile), exact(times, min(quantile + 1 / len(times), 1.0))
        assert low * 0.999999 <= estimate <= high * WIDTH * 1.000001


@given(st.lists(st.floats(0, 1e9), min_size=40, max_size=2000))
def test_any_time_can_be_observed_and_the_order_of_percentiles_holds(times: list[float]) -> None:
    histogram = LatencyHistogram(SAMPLES_MIN)
    for seconds in times:
        histogram.observe(seconds)
    assert 0 < histogram.median_s <= histogram.high_s


def test_nothing_is_hedged_before_enough_is_known() -> None:
    histogram = LatencyHistogram(SAMPLES_MIN)
    for _ in range(SAMPLES_MIN - 1):
        histogram.observe(0.01)
        assert hedge_delay("auto", histogram, SETTINGS) is None
    histogram.observe(0.01)
    assert hedge_delay("auto", histogram, SETTINGS) == pytest.approx(0.015, rel=0.1)


def test_the_operators_word_counts() -> None:
    histogram = learned([0.01] * 100)
    assert hedge_delay("off", histogram, SETTINGS) is None
    assert hedge_delay(50.0, histogram, SETTINGS) == 0.05
    assert hedge_delay(50.0, LatencyHistogram(SAMPLES_MIN), SETTINGS) == 0.05


def test_the_delay_is_the_tail_and_not_the_body() -> None:
    few_slow = learned([0.005] * 99 + [0.05])
    assert hedge_delay("auto", few_slow, SETTINGS) == pytest.approx(0.0075, rel=0.1)
    many_slow = learned([0.005] * 90 + [0.05] * 10)
    assert hedge_delay("auto", many_slow, SETTINGS) == pytest.approx(0.05, rel=0.1)
    fast = learned([0.0003] * 100)
    assert hedge_delay("auto", fast, SETTINGS) == SETTINGS.delay_s_min


def test_a_change_is_followed_upwards_soon_and_downwards_in_time() -> None:
    histogram = learned([0.01] * 2 * WINDOW)
    for _ in range(WINDOW // 8):
        histogram.observe(0.1)
    assert histogram.high_s >= 0.1
    for _ in range(6 * WINDOW):
        histogram.observe(0.01)
    assert histogram.high_s == pytest.approx(0.01, rel=0.1)


def test_losers_that_count_with_the_time_they_had_keep_the_delay_where_it_is() -> None:
    rng = random.Random(5)

    def play(*, losers_count: bool) -> float:
        histogram = LatencyHistogram(SAMPLES_MIN)
        for _ in range(20_000):
            seconds = rng.expovariate(100)
            delay_s = hedge_delay("auto", histogram, HedgeSettings(tail_min=0.0))
            other = rng.expovariate(100)
            if delay_s is None or seconds <= delay_s + other:
                histogram.observe(seconds)
            elif losers_count:
                histogram.observe(delay_s + other)
        return histogram.high_s

    true_s = -math.log(0.05) / 100
    assert play(losers_count=True) == pytest.approx(true_s, rel=0.15)
    assert play(losers_count=False) < 0.85 * true_s


def test_size_classes_learn_apart() -> None:
    latencies = Latencies(SETTINGS)
    assert latencies.of(1) is latencies.of(0)
    assert latencies.of(3) is latencies.of(4)
    assert latencies.of(4) is not latencies.of(5)
    assert latencies.of(65536) is latencies.of(40000)
    assert latencies.of(1 << 40) is latencies.of(1 << 30)


@given(
    st.floats(0, 1), st.floats(1, 50), st.lists(st.sampled_from(["call", "hedge"]), max_size=500)
)
def test_hedges_are_a_fraction_of_the_calls_and_a_burst(
    fraction: float, burst: float, events: list[str]
) -> None:
    budget = HedgeBudget(fraction, burst)
    calls = hedges = 0
    for event in events:
        if event == "call":
            calls += 1
            budget.earn()
        elif budget.left >= 1:
            hedges += 1
            budget.spend()
        else:
            with pytest.raises(ValueError, match="used up"):
                budget.spend()
        assert 0 <= budget.left <= burst
    assert hedges <= (burst + fraction * calls if fraction else 0) + 1e-6


@pytest.mark.parametrize(
    ("facts", "denial"),
    [
        (HedgeFacts(1, 1, 1.0, True), None),
        (HedgeFacts(0, 0, 1.0, True), HedgeDenial.FEW_REPLICAS),
        (HedgeFacts(2, 0, 1.0, True), HedgeDenial.SATURATED),
        (HedgeFacts(1, 1, 0.05, True), HedgeDenial.DEADLINE),
        (HedgeFacts(1, 1, -1.0, True), HedgeDenial.DEADLINE),
        (HedgeFacts(1, 1, 1.0, False), HedgeDenial.THROTTLED),
    ],
)
def test_a_hedge_that_cannot_help_or_does_harm_is_denied(
    facts: HedgeFacts, denial: HedgeDenial | None
) -> None:
    assert may_hedge(facts, learned([0.1] * 50), HedgeBudget()) is denial


def test_a_hedge_beyond_the_budget_is_denied() -> None:
    budget = HedgeBudget(0.05, 10)
    for _ in range(10):
        budget.spend()
    latency = learned([0.1] * 50)
    assert may_hedge(HedgeFacts(1, 1, 1.0, True), latency, budget) is HedgeDenial.BUDGET
    for _ in range(21):
        budget.earn()
    assert may_hedge(HedgeFacts(1, 1, 1.0, True), latency, budget) is None


def test_a_replica_with_a_batch_that_runs_and_one_that_waits_is_saturated() -> None:
    assert not is_saturated(1, 0, SETTINGS)
    assert is_saturated(2, 0, SETTINGS)
    assert not is_saturated(15, 8, SETTINGS)
    assert is_saturated(16, 8, SETTINGS)

"""What the demo's client says."""

from __future__ import annotations

from collections import Counter

from penstock.deploy.local.demo.client import Tally, percentile


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, q) for q in (0.0, 0.5, 0.9, 0.99, 1.0)] == [1, 50, 90, 99, 100]
    assert percentile([7.0], 0.99) == 7.0


def test_the_result_counts_failures_apart() -> None:
    tally = Tally(
        correct=3,
        versions=Counter({"2": 1, "1": 3}),
        latencies_ms=[1.0, 2.0, 3.0, 4.0],
        failures=Counter({"503: no replica": 2}),
    )
    assert tally.lines(took_s=2.0) == [
        "requests     6 in 2.0 s, failed 2",
        "accuracy     0.7500",
        "versions     1 (3), 2 (1)",
        "latency ms   p50 2.0  p90 4.0  p99 4.0",
        "failed 2 x  503: no replica",
    ]


def test_nothing_but_failures_has_a_result() -> None:
    tally = Tally(failures=Counter({"ConnectError: refused": 2}))
    assert tally.lines(1.0) == [
        "requests     2 in 1.0 s, failed 2",
        "failed 2 x  ConnectError: refused",
    ]

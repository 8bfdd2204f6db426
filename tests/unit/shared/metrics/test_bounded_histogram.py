"""Durations by model: however many models come, series are bounded and nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.metrics.bounded_histogram import OTHERS, BoundedHistogram

NAMES = st.sampled_from("abcdef")


def samples(histogram: BoundedHistogram, end: str) -> dict[str, float]:
    (family,) = histogram.collect()
    return {
        sample.labels["model"]: sample.value
        for sample in family.samples
        if sample.name == f"penstock_x_seconds{end}"
    }


@given(observed=st.lists(st.tuples(NAMES, st.integers(0, 9))), models_max=st.integers(1, 4))
def test_the_latest_models_are_named_and_sums_stay_right(
    observed: list[tuple[str, int]], models_max: int
) -> None:
    histogram = BoundedHistogram("penstock_x_seconds", "X.", (1.0, 5.0), models_max)
    for model, seconds in observed:
        histogram.observe(model, seconds)
    latest = list(dict.fromkeys(model for model, _ in reversed(observed)))[:models_max]
    counts = samples(histogram, "_count")
    assert set(counts) == {OTHERS, *latest}
    assert sum(counts.values()) == len(observed)
    assert sum(samples(histogram, "_sum").values()) == sum(seconds for _, seconds in observed)


def test_a_bound_belongs_to_its_bucket_and_buckets_add_up() -> None:
    histogram = BoundedHistogram("penstock_x_seconds", "X.", (1.0, 5.0))
    for seconds in (0.5, 1.0, 1.1, 5.0, 60.0):
        histogram.observe("m", seconds)
    (family,) = histogram.collect()
    buckets = {
        sample.labels["le"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["model"] == "m"
    }
    assert buckets == {"1.0": 2, "5.0": 4, "+Inf": 5}


def test_there_is_a_series_before_anything_is_observed() -> None:
    histogram = BoundedHistogram("penstock_x_seconds", "X.", (1.0,))
    assert samples(histogram, "_count") == {OTHERS: 0}

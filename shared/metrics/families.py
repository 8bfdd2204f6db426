"""Metric families whose samples differ by one label."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def labelled(
    kind: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    help_text: str,
    label: str,
    values: Iterable[tuple[str, float]],
) -> Metric:
    """A family with one sample for each pair of the label's value and the figure."""
    family = kind(name, help_text, labels=[label])
    for of, value in values:
        family.add_metric([str(of)], value)
    return family

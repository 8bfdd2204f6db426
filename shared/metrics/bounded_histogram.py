"""A histogram of rare events by model, whose series are bounded however many models come and go.

The event loop observes and another thread scrapes. All counts are in one dict that is never
changed, only replaced, so that a scrape sees each event once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MODELS_MAX = 200
"""Models with series of their own in one process; a histogram has a dozen series for each."""

OTHERS = ""
"""The label of all models beyond that; no model has this name."""


@dataclass(frozen=True)
class _Counts:
    buckets: tuple[int, ...]
    total_s: float = 0.0

    def plus(self, other: _Counts) -> _Counts:
        both = zip(self.buckets, other.buckets, strict=True)
        return _Counts(tuple([one + more for one, more in both]), self.total_s + other.total_s)


class BoundedHistogram(Collector):
    """Durations by model. Of more than `models_max`, those observed last have their own series.

    What the others counted is added to the series of the empty name, so that sums stay right.

    Args:
        name, help_text: of the metric.
        bounds_s: upper bounds of the buckets, ascending.
        models_max: models with series of their own.
    """

    def __init__(
        self, name: str, help_text: str, bounds_s: Sequence[float], models_max: int = MODELS_MAX
    ) -> None:
        self._name = name
        self._help_text = help_text
        self._bounds_s = tuple(bounds_s)
        self._models_max = models_max
        self._labels = (*map(floatToGoString, self._bounds_s), "+Inf")
        self._none = _Counts((0,) * len(self._labels))
        self._series = {OTHERS: self._none}

    def observe(self, model: str, seconds: float) -> None:
        """Something of a model took so long."""
        bucket = bisect_left(self._bounds_s, seconds)
        once = _Counts(tuple([int(n == bucket) for n in range(len(self._labels))]), seconds)
        series = dict(self._series)
        series[model] = series.pop(model, self._none).plus(once)  # at the end: observed last
        if len(series) > self._models_max + 1:
            oldest = next(name for name in series if name != OTHERS)
            series[OTHERS] = series[OTHERS].plus(series.pop(oldest))
        self._series = series

    def collect(self) -> Iterator[Metric]:
        """The one family."""
        family = HistogramMetricFamily(self._name, self._help_text, labels=["model"])
        for model, counts in self._series.items():
            buckets = list(zip(self._labels, accumulate(counts.buckets), strict=True))
            family.add_metric([model], buckets, counts.total_s)
        yield family

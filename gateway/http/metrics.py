"""Metrics of the HTTP front, with bounded label sets.

A model's name becomes a label only once the service has said that the model exists; other requests
are counted under the empty name, so that clients cannot make series by inventing names.

Requests are counted in plain numbers by the event loop, and made into metrics when they are
scraped: a quarter of what the client library's own counters cost (see docs/metrics.md). Scrapes may
come from another thread, so `collect` works on copies that the interpreter makes in one step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OK: Final = "ok"
"""Outcome of a request that was answered with a result; all others are error codes."""

LATENCY_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
_BUCKET_LABELS = (*map(floatToGoString, LATENCY_BUCKETS_S), "+Inf")


@dataclass(slots=True)
class _Series:
    """The counts of one model and version."""

    outcomes: dict[str, int] = field(default_factory=dict)
    latencies: list[int] = field(default_factory=lambda: [0] * len(_BUCKET_LABELS))
    latency_s: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0


class HttpMetrics(Collector):
    """What the HTTP front counts.

    Args:
        registry: where the metrics are registered, and what `/metrics` shows.
        max_series: most pairs of model and version kept at a time.

    Attributes:
        body_copied_bytes: of bodies that were put together from pieces, or cut out of them.
        in_flight: inference requests that have begun and are not answered yet.
    """

    def __init__(self, registry: CollectorRegistry, max_series: int = 256) -> None:
        self.registry = registry
        self.body_copied_bytes = 0
        self.in_flight = 0
        self._max_series = max_series
        self._series: dict[tuple[str, str], _Series] = {}
        registry.register(self)

    def record(
        self,
        model: str,
        version: str,
        code: str,
        latency_s: float,
        request_bytes: int,
        response_bytes: int,
    ) -> None:
        """Count one request; `model` is empty unless the service knows it."""
        series = self._series.get((model, version)) or self._new_series(model, version)
        series.outcomes[code] = series.outcomes.get(code, 0) + 1
        series.latencies[bisect_left(LATENCY_BUCKETS_S, latency_s)] += 1
        series.latency_s += latency_s
        series.request_bytes += request_bytes
        series.response_bytes += response_bytes

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        series = list(self._series.items())
        requests = CounterMetricFamily(
            "penstock_gateway_requests",
            "Inference requests by outcome: ok or an error code.",
            labels=["model", "version", "code"],
        )
        latency = HistogramMetricFamily(
            "penstock_gateway_request_seconds",
            "From a request's headers to its answer, in seconds.",
            labels=["model", "version"],
        )
        for key, counts in series:
            for code, count in list(counts.outcomes.items()):
                requests.add_metric([*key, code], count)
            totals = accumulate(list(counts.latencies))
            buckets = list(zip(_BUCKET_LABELS, totals, strict=True))
            latency.add_metric(key, buckets, counts.latency_s)
        yield requests
        yield latency
        yield _bytes(
            "request", "Bytes in the bodies of inference requests.", series, _request_bytes
        )
        yield _bytes(
            "response", "Bytes in the bodies of answers with a result.", series, _response_bytes
        )
        yield CounterMetricFamily(
            "penstock_gateway_body_copied_bytes",
            "Bytes of requests' bodies that were put together from pieces, or cut out of them.",
            value=self.body_copied_bytes,
        )
        yield GaugeMetricFamily(
            "penstock_gateway_requests_in_flight",
            "Inference requests that have begun and are not answered yet.",
            value=self.in_flight,
        )

    def _new_series(self, model: str, version: str) -> _Series:
        if len(self._series) >= self._max_series:
            del self._series[next(iter(self._series))]
        series = self._series[model, version] = _Series()
        return series


def _request_bytes(series: _Series) -> int:
    return series.request_bytes


def _response_bytes(series: _Series) -> int:
    return series.response_bytes


def _bytes(
    what: str,
    help_text: str,
    series: list[tuple[tuple[str, str], _Series]],
    value: Callable[[_Series], int],
) -> CounterMetricFamily:
    family = CounterMetricFamily(
        f"penstock_gateway_{what}_bytes", help_text, labels=["model", "version"]
    )
    for key, counts in series:
        family.add_metric(key, value(counts))
    return family

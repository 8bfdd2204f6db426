"""Metrics of the HTTP front, with bounded label sets.

A model's name becomes a label only once the service has said that the model exists; other requests
are counted under the empty name, so that clients cannot make series by inventing names.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

OK = "ok"
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


@dataclass(slots=True)
class _Series:
    """The metrics of one model and version, looked up once."""

    latency: Histogram
    request_bytes: Counter
    response_bytes: Counter
    outcomes: dict[str, Counter] = field(default_factory=dict)


class HttpMetrics:
    """What the HTTP front counts.

    Args:
        registry: where the metrics are registered, and what `/metrics` shows.
        max_series: most pairs of model and version kept at a time.
    """

    def __init__(self, registry: CollectorRegistry, max_series: int = 256) -> None:
        self.registry = registry
        self._max_series = max_series
        self._series: dict[tuple[str, str], _Series] = {}
        names = ("model", "version")
        self._requests = Counter(
            "penstock_gateway_requests_total",
            "Inference requests by outcome: ok or an error code.",
            (*names, "code"),
            registry=registry,
        )
        self._latency = Histogram(
            "penstock_gateway_request_seconds",
            "From a request's headers to its answer, in seconds.",
            names,
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._request_bytes = Counter(
            "penstock_gateway_request_bytes_total",
            "Bytes in the bodies of inference requests.",
            names,
            registry=registry,
        )
        self._response_bytes = Counter(
            "penstock_gateway_response_bytes_total",
            "Bytes in the bodies of answers with a result.",
            names,
            registry=registry,
        )
        self.in_flight: Gauge = Gauge(
            "penstock_gateway_requests_in_flight",
            "Inference requests that have begun and are not answered yet.",
            registry=registry,
        )

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
        outcome = series.outcomes.get(code)
        if outcome is None:
            outcome = series.outcomes[code] = self._requests.labels(model, version, code)
        outcome.inc()
        series.latency.observe(latency_s)
        series.request_bytes.inc(request_bytes)
        if response_bytes:
            series.response_bytes.inc(response_bytes)

    def _new_series(self, model: str, version: str) -> _Series:
        if len(self._series) >= self._max_series:
            self._drop(next(iter(self._series)))
        series = _Series(
            self._latency.labels(model, version),
            self._request_bytes.labels(model, version),
            self._response_bytes.labels(model, version),
        )
        self._series[model, version] = series
        return series

    def _drop(self, key: tuple[str, str]) -> None:
        series = self._series.pop(key)
        for code in series.outcomes:
            self._requests.remove(*key, code)
        for metric in (self._latency, self._request_bytes, self._response_bytes):
            metric.remove(*key)

"""Percentiles of latencies; pure.

Nearest rank, from above: a p99 is a latency that a request really had, and of few samples it is
the largest rather than something between two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAN = float("nan")


@dataclass(frozen=True)
class Latency:
    """Milliseconds; not a number where nothing was answered."""

    p50_ms: float = NAN
    p90_ms: float = NAN
    p99_ms: float = NAN
    p999_ms: float = NAN
    max_ms: float = NAN


def percentile(values: NDArray[np.float64], percent: float) -> float:
    """The smallest value that `percent` of all are at or below."""
    if not len(values):
        return NAN
    return float(np.percentile(values, percent, method="inverted_cdf"))


def latency_of(values_ms: NDArray[np.float64]) -> Latency:
    """The percentiles that are reported."""
    if not len(values_ms):
        return Latency()
    p50, p90, p99, p999 = (percentile(values_ms, percent) for percent in (50, 90, 99, 99.9))
    return Latency(p50, p90, p99, p999, float(values_ms.max()))

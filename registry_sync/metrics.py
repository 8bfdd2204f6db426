"""What a daemon counts, as Prometheus metrics.

The controller counts in plain numbers; the scraping thread reads numbers and copies of dicts.
Only the leader knows how many versions are in which phase, so only it says so; that makes the
figures of several daemons fit to be added up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from shared.deployment import Deployment, Phase

PLAN_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_BUCKET_LABELS = (*map(floatToGoString, PLAN_BUCKETS_S), "+Inf")

_COUNTERS = {
    "polls": "Times that the registry was read, or was tried to.",
    "poll_failures": "Times that the registry could not be read.",
    "status_writes": "Statuses written to the registry.",
    "status_write_failures": "Statuses that could not be written to the registry.",
    "store_failures": "Times that the state store could not be read or written.",
    "fetches": "Downloads that found out what a version consists of, or tried to.",
    "fetch_failures": "Such downloads that failed.",
    "faults": "Errors that nobody foresaw, after each of which the daemon goes on.",
}


@dataclass
class SyncCounts:
    """Totals since the daemon's start, and what the newest plan says.

    Attributes:
        plan_times: plans by the bucket of their duration.
        phases: versions by phase, in the newest plan of this daemon.
    """

    polls: int = 0
    poll_failures: int = 0
    status_writes: int = 0
    status_write_failures: int = 0
    store_failures: int = 0
    fetches: int = 0
    fetch_failures: int = 0
    faults: int = 0
    plan_s: float = 0.0
    plan_times: list[int] = field(default_factory=lambda: [0] * len(_BUCKET_LABELS))
    phases: dict[Phase, int] = field(default_factory=dict)

    def planned(self, deployment: Deployment, duration_s: float) -> None:
        """A plan was made."""
        self.plan_s += duration_s
        self.plan_times[bisect_left(PLAN_BUCKETS_S, duration_s)] += 1
        self.phases = dict(Counter(each.phase for each in deployment.revisions.values()))


class SyncState(Protocol):
    """What a daemon says of itself at the moment of a scrape; see `controller.Controller`."""

    @property
    def leading(self) -> bool: ...

    @property
    def registry_age_s(self) -> float: ...

    @property
    def hanging_calls(self) -> int: ...


class SyncCollector(Collector):
    """Exposes a daemon's counts and its state."""

    def __init__(self, counts: SyncCounts, state: SyncState) -> None:
        self._counts = counts
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        counts, state = self._counts, self._state
        leading = state.leading
        yield GaugeMetricFamily(
            "penstock_sync_leader", "1 if this daemon holds the lease, else 0.", value=int(leading)
        )
        yield GaugeMetricFamily(
            "penstock_sync_registry_age_seconds",
            "Seconds since the registry was last read completely, by the daemon that leads.",
            value=state.registry_age_s,
        )
        yield GaugeMetricFamily(
            "penstock_sync_hanging_calls",
            "Calls of the registry that were given up and have not ended.",
            value=state.hanging_calls,
        )
        for name, help_text in _COUNTERS.items():
            value = getattr(counts, name)
            yield CounterMetricFamily(f"penstock_sync_{name}", help_text, value=value)
        plans = HistogramMetricFamily("penstock_sync_plan_seconds", "Time to make a plan.")
        totals = accumulate(list(counts.plan_times))
        plans.add_metric([], list(zip(_BUCKET_LABELS, totals, strict=True)), counts.plan_s)
        yield plans
        versions = GaugeMetricFamily(
            "penstock_sync_versions", "Deployed versions by phase.", labels=["phase"]
        )
        phases = counts.phases if leading else {}
        for phase in Phase:
            versions.add_metric([phase.value], phases.get(phase, 0))
        yield versions

"""What a daemon counts, as Prometheus metrics.

The controller counts in plain numbers; the scraping thread reads numbers and copies of dicts.
Only the leader knows how many versions are in which phase, so only it says so; that makes the
figures of several daemons fit to be added up.
"""

from __future__ import annotations

from bisect import bisect_left
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

from penstock.registry_sync.plan.version_phases import PhaseCounts, phase_counts, version_phases
from penstock.registry_sync.plan.world import Plan
from penstock.shared.contracts.deployment import Deployment, Phase
from penstock.shared.metrics.bounded_histogram import BoundedHistogram

PLAN_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
_BUCKET_LABELS = (*map(floatToGoString, PLAN_BUCKETS_S), "+Inf")

SWAP_BUCKETS_S = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


def _swaps() -> BoundedHistogram:
    help_text = "From when a version was to serve until it did."
    return BoundedHistogram("penstock_sync_swap_seconds", help_text, SWAP_BUCKETS_S)


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
        versions: how many are in a phase, in the newest plan of this daemon.
        swaps: how long it took until versions served.
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
    versions: PhaseCounts = field(default_factory=lambda: phase_counts({}))
    swaps: BoundedHistogram = field(default_factory=_swaps)

    def planned(self, plan: Plan, duration_s: float) -> None:
        """A plan was made."""
        self.plan_s += duration_s
        self.plan_times[bisect_left(PLAN_BUCKETS_S, duration_s)] += 1
        self.versions = phase_counts(version_phases(plan.deployment, plan.told))

    def applied(self, before: Deployment, after: Deployment) -> None:
        """A plan was written: what serves by it and did not before."""
        for name, revision in after.revisions.items():
            earlier = before.revisions.get(name)
            served = earlier is not None and earlier.phase is Phase.SERVING
            if revision.phase is Phase.SERVING and not served and revision.wished_at:
                took_s = max(0.0, revision.changed_at - revision.wished_at)
                self.swaps.observe(revision.model, took_s)


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
            "penstock_sync_versions",
            "Versions by phase: 1 for each that is named, and the number of the others.",
            labels=["model", "version", "phase"],
        )
        shown = counts.versions if leading else phase_counts({})
        for (model, version, phase), count in shown.items():
            versions.add_metric([model, version, phase.value], count)
        yield versions
        yield from counts.swaps.collect()

"""Prometheus metrics of a worker: what its replicas count, kept monotonic over their lives.

Replicas send totals since their start with each heartbeat. `ReplicaTotals` adds up the lives that
are over, per model and version, so that a restart is no reset. What a replica counted between its
last heartbeat and a crash is lost.

The event loop writes totals and publishes snapshots; the scraping thread reads the newest snapshot,
which never changes. Nothing else is shared between the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from penstock.shared.contracts.deployment import ReplicaReport
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.metrics.bounded_histogram import BoundedHistogram
from penstock.worker.agent.events import KillReason
from penstock.worker.agent.resident import by_replica, largest_named
from penstock.worker.control.messages import Heartbeat
from penstock.worker.session.batching import DispatchReason

VERSIONS_MAX = 200
"""Versions without a replica that are still counted; beyond, those that ended first are dropped."""

REASONS_MAX = 8
"""Dispatch reasons per version; replicas know four."""

SIZE_CLASSES = 11
"""Size classes with a bucket of their own, the last for up to 1024 rows; the others are +Inf."""

LOAD_BUCKETS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)

_COUNTERS = {
    "requests": "Requests taken in by replicas.",
    "failures": "Requests that failed in the model.",
    "expired": "Requests whose deadline, or time in queue, passed in a replica's queue.",
    "cancelled": "Requests that were cancelled in a replica's queue.",
    "rows": "Rows executed.",
    "batches": "Batches executed.",
    "copied_bytes": "Bytes that replicas copied, of headers, tensors and batches.",
}
_NO_REASON = {reason.value: 0 for reason in DispatchReason}
"""Reasons that have not occurred are exposed all the same, so that rates exist from the start."""

_NO_KILLS = {reason.value: 0 for reason in KillReason}

_SECONDS = {
    "queue": "Time that requests waited in replicas' queues.",
    "infer": "Time that replicas spent executing batches.",
}

Label = tuple[str, str]
"""Model and version."""


def add(one: Heartbeat, other: Heartbeat) -> Heartbeat:
    """The counters of both together; gauges are those of `one`."""
    reasons = Counter(one.dispatched) + Counter(other.dispatched)
    sizes: Counter[int] = Counter()
    for size_class, count in (*one.batch_sizes.items(), *other.batch_sizes.items()):
        sizes[min(max(size_class, 0), SIZE_CLASSES)] += count
    counters = {name: getattr(one, name) + getattr(other, name) for name in _COUNTERS}
    return Heartbeat(
        queued_rows=one.queued_rows,
        executing_rows=one.executing_rows,
        infer_us=one.infer_us + other.infer_us,
        queue_us=one.queue_us + other.queue_us,
        dispatched=dict(sorted(reasons.items())[:REASONS_MAX]),
        batch_sizes=dict(sizes),
        **counters,
    )


@dataclass
class _Version:
    """One version: lives that are over, summed up, and the newest heartbeat of each that is not."""

    over: Heartbeat = field(default_factory=Heartbeat)
    lives: dict[str, Heartbeat] = field(default_factory=dict)
    restarts: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    def total(self) -> Heartbeat:
        total = self.over
        for heartbeat in self.lives.values():
            total = add(total, heartbeat)
        return total


@dataclass(frozen=True)
class Snapshot:
    """All that is exposed, at one moment."""

    totals: dict[Label, Heartbeat] = field(default_factory=dict)
    restarts: dict[Label, int] = field(default_factory=dict)
    kills: dict[Label, dict[str, int]] = field(default_factory=dict)
    replicas: tuple[ReplicaReport, ...] = ()


class ReplicaTotals:
    """Totals per model and version. Used by the event loop only.

    Args:
        versions_max: versions without a replica that are kept.

    Attributes:
        loads: how long replicas took until they were ready; may be scraped at any time.
    """

    def __init__(self, versions_max: int = VERSIONS_MAX) -> None:
        self.loads = BoundedHistogram(
            "penstock_replica_load_seconds",
            "From the start of a replica's process until it was ready.",
            LOAD_BUCKETS_S,
        )
        self._versions_max = versions_max
        self._versions: dict[Label, _Version] = {}

    def began(self, label: Label, replica: ReplicaId, *, restart: bool) -> None:
        """A replica was spawned."""
        version = self._versions.setdefault(label, _Version())
        version.lives[replica] = Heartbeat()
        version.restarts += restart

    def beat(self, label: Label, replica: ReplicaId, heartbeat: Heartbeat) -> None:
        """A replica that lives told its totals."""
        version = self._versions.get(label)
        if version is not None and replica in version.lives:
            version.lives[replica] = heartbeat

    def killed(self, label: Label, reason: KillReason) -> None:
        """A replica that lives had to be killed."""
        version = self._versions.get(label)
        if version is not None:
            version.kills[reason.value] += 1

    def ended(self, label: Label, replica: ReplicaId) -> None:
        """A replica's life is over."""
        version = self._versions.pop(label, None)
        if version is None:
            return
        version.over = add(version.over, version.lives.pop(replica, Heartbeat()))
        self._versions[label] = version  # at the end: ended last
        idle = [name for name, other in self._versions.items() if not other.lives]
        for name in idle[: max(0, len(idle) - self._versions_max)]:
            del self._versions[name]

    def snapshot(self, replicas: tuple[ReplicaReport, ...]) -> Snapshot:
        """What is to be exposed now, beside the states of `replicas`."""
        return Snapshot(
            totals={label: version.total() for label, version in self._versions.items()},
            restarts={label: version.restarts for label, version in self._versions.items()},
            kills={label: dict(version.kills) for label, version in self._versions.items()},
            replicas=replicas,
        )


class AgentCollector(Collector):
    """Exposes the newest snapshot, and what memory its replicas hold at that moment.

    Args:
        worker: its name.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._snapshot = Snapshot()

    def publish(self, snapshot: Snapshot) -> None:
        """Expose `snapshot` from now on."""
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        snapshot = self._snapshot
        for name, help_text in _COUNTERS.items():
            yield _counter(
                name,
                help_text,
                ((label, getattr(total, name)) for label, total in snapshot.totals.items()),
            )
        for name, help_text in _SECONDS.items():
            yield _counter(
                f"{name}_seconds",
                help_text,
                (
                    (label, getattr(total, f"{name}_us") / 1e6)
                    for label, total in snapshot.totals.items()
                ),
            )
        yield _counter(
            "restarts", "Replicas started again after an end unasked.", snapshot.restarts.items()
        )
        yield _by_reason(
            "dispatched",
            "Batches by the reason of their release.",
            {label: _NO_REASON | total.dispatched for label, total in snapshot.totals.items()},
        )
        yield _by_reason(
            "kills",
            "Replicas that their agent had to kill, by reason.",
            {label: _NO_KILLS | kills for label, kills in snapshot.kills.items()},
        )
        yield _batch_rows(snapshot)
        yield from _gauges(snapshot)
        yield self._resident(snapshot)

    def _resident(self, snapshot: Snapshot) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "penstock_replica_resident_bytes",
            "Resident memory of a replica's process; of many, the largest are named.",
            labels=["worker", "model", "version", "replica"],
        )
        for label, size_bytes in largest_named(dict(by_replica(snapshot.replicas))).items():
            family.add_metric((self._worker, *label), size_bytes)
        return family


def _counter(
    name: str, help_text: str, values: Iterable[tuple[Label, float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"penstock_replica_{name}", help_text, labels=["model", "version"])
    for label, value in values:
        family.add_metric(label, value)
    return family


def _by_reason(
    name: str, help_text: str, counts: dict[Label, dict[str, int]]
) -> CounterMetricFamily:
    labels = ["model", "version", "reason"]
    family = CounterMetricFamily(f"penstock_replica_{name}", help_text, labels=labels)
    for label, by_reason in counts.items():
        for reason, count in by_reason.items():
            family.add_metric((*label, reason), count)
    return family


def _batch_rows(snapshot: Snapshot) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "penstock_replica_batch_rows", "Rows per executed batch.", labels=["model", "version"]
    )
    bounds = [*(f"{2.0**size_class}" for size_class in range(SIZE_CLASSES)), "+Inf"]
    for label, total in snapshot.totals.items():
        counts = accumulate(total.batch_sizes.get(n, 0) for n in range(SIZE_CLASSES + 1))
        family.add_metric(label, list(zip(bounds, counts, strict=True)), total.rows)
    return family


def _gauges(snapshot: Snapshot) -> Iterator[GaugeMetricFamily]:
    states = GaugeMetricFamily(
        "penstock_replica_states", "Replicas by state.", labels=["model", "version", "state"]
    )
    by_state = Counter((one.model, one.version, one.state.value) for one in snapshot.replicas)
    for labels, count in by_state.items():
        states.add_metric(labels, count)
    yield states
    for name in ("queued_rows", "executing_rows"):
        family = GaugeMetricFamily(
            f"penstock_replica_{name}",
            f"Rows that are {name.removesuffix('_rows')} in replicas.",
            labels=["model", "version"],
        )
        rows: Counter[Label] = Counter()
        for one in snapshot.replicas:
            rows[one.model, one.version] += getattr(one, name)
        for label, count in rows.items():
            family.add_metric(label, count)
        yield family

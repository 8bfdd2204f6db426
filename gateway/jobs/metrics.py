"""Jobs as Prometheus metrics, read from the keeper's figures when scraped.

What is in the store is everybody's: all gateways show the same, and of several the largest counts.
Only `penstock_gateway_*` are of one gateway. Labels are models that jobs were accepted for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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

from penstock.gateway.inference.types import DeployedModel
from penstock.gateway.jobs.keeper.keeper import JobFigures
from penstock.shared.jobs.answers import ModelStats, StoreStats
from penstock.shared.jobs.record import JobState
from penstock.shared.jobs.totals import BOUNDS_MS, ModelTotals, Spans
from penstock.shared.metrics.families import labelled

_BUCKETS = (*map(floatToGoString, (bound / 1000 for bound in BOUNDS_MS)), "+Inf")

_GAUGES: tuple[tuple[str, str, Callable[[ModelStats], int]], ...] = (
    ("waiting", "Jobs that wait in their queue.", lambda held: held.queued),
    ("in_flight", "Jobs that replicas hold.", lambda held: held.running + held.canceling),
    ("dead_letters", "Failed jobs that are kept as dead letters.", lambda held: held.dead),
)

_COUNTERS: tuple[tuple[str, str, Callable[[ModelTotals], int]], ...] = (
    ("submitted", "Jobs accepted.", lambda totals: totals.submitted),
    ("attempts", "Jobs handed to replicas.", lambda totals: totals.leased),
    ("attempts_lost", "Attempts lost with their replica.", lambda totals: totals.lost),
    ("attempts_released", "Attempts given back before they began.", lambda totals: totals.released),
)


class Kept(Protocol):
    """What the collector needs of `penstock.gateway.jobs.keeper.keeper.JobKeeper`."""

    @property
    def figures(self) -> JobFigures: ...

    @property
    def webhooks(self) -> Mapping[str, int]: ...


class Deployed(Protocol):
    """What the collector needs of the service."""

    def deployed_models(self) -> tuple[DeployedModel, ...]: ...


class JobsCollector(Collector):
    """Collects from the keeper; a deployed model without jobs shows that it has none."""

    def __init__(self, keeper: Kept, service: Deployed) -> None:
        self._keeper = keeper
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        figures = self._keeper.figures
        yield GaugeMetricFamily(
            "penstock_gateway_job_store_reachable",
            "1 if the job store answered this gateway when it was last asked.",
            value=figures.reachable,
        )
        yield labelled(
            CounterMetricFamily,
            "penstock_gateway_webhooks",
            "Webhooks that this gateway called.",
            "result",
            self._keeper.webhooks.items(),
        )
        if figures.stats is not None:
            names = [deployed.model for deployed in self._service.deployed_models()]
            yield from _held(names, figures.stats, figures)
            yield from _counted(figures.totals)


def _held(names: Iterable[str], stats: StoreStats, figures: JobFigures) -> Iterator[Metric]:
    """What there is now."""
    none = dict.fromkeys(names, ModelStats(0, 0, 0, 0))
    models = none | dict(stats.models)
    for name, help_text, value_of in _GAUGES:
        values = [(model, value_of(held)) for model, held in models.items()]
        yield labelled(GaugeMetricFamily, f"penstock_jobs_{name}", help_text, "model", values)
    zeros = dict.fromkeys(models, 0.0)
    backlogs = {model: figures.backlog_s.get(model, 0.0) for model in stats.models}
    for name, help_text, seconds in (
        ("oldest_seconds", "How long the oldest job that waits has done so.", _oldest(stats)),
        ("backlog_seconds", "Time that the ready replicas will need for all jobs.", backlogs),
    ):
        family = f"penstock_jobs_{name}"
        yield labelled(GaugeMetricFamily, family, help_text, "model", (zeros | seconds).items())
    for name, help_text, value in (
        ("records", "Jobs in the store, of all states.", stats.jobs),
        ("store_bytes", "Bytes that the store keeps of payloads, results, outputs.", stats.bytes),
        ("garbage_blobs", "Blobs of erased jobs that are to be deleted.", stats.garbage),
        ("webhooks_waiting", "States that are to be told to webhooks.", stats.webhooks),
        ("webhooks_undelivered", "Webhooks in the list of those given up.", stats.undelivered),
    ):
        yield GaugeMetricFamily(f"penstock_jobs_{name}", help_text, value=value)


def _oldest(stats: StoreStats) -> dict[str, float]:
    oldest: dict[str, float] = {}
    for (model, _), queue in stats.queues.items():
        oldest[model] = max(oldest.get(model, 0.0), queue.oldest_age_ms / 1000)
    return oldest


def _counted(totals: Mapping[str, ModelTotals]) -> Iterator[Metric]:
    """What ever happened."""
    for name, help_text, value_of in _COUNTERS:
        values = [(model, value_of(counted)) for model, counted in totals.items()]
        yield labelled(CounterMetricFamily, f"penstock_jobs_{name}", help_text, "model", values)
    finished = CounterMetricFamily(
        "penstock_jobs_finished", "Jobs that ended, by how.", labels=["model", "state"]
    )
    for model, counted in totals.items():
        for state, spans in counted.ended.items():
            finished.add_metric([model, state], spans.count)
    yield finished
    yield _histogram(
        "penstock_jobs_seconds",
        "From submit to the end, by the state that a job ended in.",
        {model: counted.ended for model, counted in totals.items()},
    )
    yield _histogram(
        "penstock_jobs_state_seconds",
        "How long jobs stayed in a state.",
        {model: counted.spent for model, counted in totals.items()},
    )


def _histogram(
    name: str, help_text: str, spans: Mapping[str, Mapping[JobState, Spans]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, help_text, labels=["model", "state"])
    for model, states in spans.items():
        for state, each in states.items():
            buckets = list(zip(_BUCKETS, accumulate(each.counts), strict=True))
            family.add_metric([model, state], buckets, each.total_s)
    return family

"""Adding up the metrics of several processes, in Prometheus's text format.

Samples of the same name and labels are added: counters, histograms and gauges alike, because most
gauges are amounts (rows queued, calls in flight). `LARGEST` names what is not, or is the same in
several processes; of that the largest is shown.

A counter that falls is one that began anew, for Prometheus: from what is left it takes all for new,
and an alert on a rate would fire whenever a process ends beside another. So `EndedCounters` keeps
what processes had counted that answer no more.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LARGEST = frozenset(
    {
        "penstock_gateway_ready_replicas",  # all gateways count the same replicas
        "penstock_gateway_routing_generation",  # a name of a state, not an amount
        # All gateways read the same from the job store.
        "penstock_jobs_attempts",
        "penstock_jobs_attempts_lost",
        "penstock_jobs_attempts_released",
        "penstock_jobs_backlog_seconds",
        "penstock_jobs_dead_letters",
        "penstock_jobs_finished",
        "penstock_jobs_garbage_blobs",
        "penstock_jobs_in_flight",
        "penstock_jobs_oldest_seconds",
        "penstock_jobs_records",
        "penstock_jobs_seconds",
        "penstock_jobs_state_seconds",
        "penstock_jobs_store_bytes",
        "penstock_jobs_submitted",
        "penstock_jobs_waiting",
        "penstock_jobs_webhooks_undelivered",
        "penstock_jobs_webhooks_waiting",
        "penstock_sync_registry_age_seconds",  # one daemon leads, and the others show 0
    }
)
"""Families of which the sum shows the largest samples."""

ENDED_MAX = 8
"""Processes that answer no more whose counters are kept one by one, since they may come back, as
after they were stopped; those of earlier ones are one page."""

EARLIER_BYTES_MAX = 4 * 1024 * 1024
"""Longest such page: versions come and go, and each leaves series. Beyond, it begins anew."""

_NO_AMOUNTS = ("python_info", "process_start_time_seconds", "process_max_fds")


def sum_metrics(pages: Iterable[str]) -> str:
    """The pages' samples added up, in Prometheus's text format.

    A page that cannot be parsed is left out. Families that are no amounts (times, versions, limits)
    are left out of the sum, except that of those in `LARGEST` the largest samples are shown.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in _parse(page):
            if family.name.endswith("_created") or family.name in _NO_AMOUNTS:
                continue
            families.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                before = sums.get(key)
                if before is None:
                    sums[key] = sample.value
                elif family.name in LARGEST:
                    sums[key] = max(before, sample.value)
                else:
                    sums[key] = before + sample.value
    return _render(families, values)


class EndedCounters:
    """What processes had counted when they answered last; may be used by several threads.

    Args:
        ended_max: processes that are kept one by one.
    """

    def __init__(self, ended_max: int = ENDED_MAX) -> None:
        self._ended_max = ended_max
        self._lock = threading.Lock()
        self._pages: dict[str, str] = {}  # by process; what answered last is at the end
        self._earlier = ""

    def completed(self, scraped: Mapping[str, str]) -> list[str]:
        """The pages that are to be added up.

        Args:
            scraped: page by the name of the process's life; empty where it did not answer.
        """
        with self._lock:
            for process, page in scraped.items():
                if page:
                    self._pages.pop(process, None)
                    self._pages[process] = _counters_of(page)
            silent = [process for process in self._pages if not scraped.get(process)]
            ended = [process for process in silent if process not in scraped]
            for process in ended[: max(0, len(ended) - self._ended_max)]:
                self._fold(process)
            kept = [self._pages[process] for process in silent if process in self._pages]
            return [*scraped.values(), *kept, self._earlier]

    def _fold(self, process: str) -> None:
        self._earlier = sum_metrics([self._earlier, self._pages.pop(process)])
        if len(self._earlier) > EARLIER_BYTES_MAX:
            self._earlier = ""


def _counters_of(page: str) -> str:
    """What of a page only grows, and is added up."""
    families = [
        family
        for family in _parse(page)
        if family.type in ("counter", "histogram") and family.name not in LARGEST
    ]
    return _page_of(families)


def _parse(page: str) -> list[Metric]:
    try:
        return list(text_string_to_metric_families(page))
    except ValueError:
        return []


def _render(
    families: dict[str, Metric],
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]],
) -> str:
    metrics = []
    for name, family in families.items():
        metric = Metric(name, family.documentation, family.type)
        for (sample, labels), value in values[name].items():
            metric.add_sample(sample, dict(labels), value)
        metrics.append(metric)
    return _page_of(metrics)


def _page_of(families: Iterable[Metric]) -> str:
    class Page(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Page())
    return generate_latest(registry).decode()

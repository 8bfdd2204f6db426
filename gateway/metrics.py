"""What dispatch counts, as Prometheus metrics: read from its plain counters when scraped.

Scrapes may come from a thread of their own; what is read here is either one number, or a dict that
is copied in one step before it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.calls import DeployedModel
from gateway.dispatch import DispatchCounters

_HELP = {
    "attempts": "Attempts sent to replicas.",
    "lost": "Attempts that were lost with their replica.",
    "nacks": "Attempts that a replica refused before it started them.",
    "late": "Answers that came after their attempt had ended.",
    "expired": "Calls whose deadline passed.",
    "cancelled": "Calls that their client gave up.",
    "shed": "Calls refused because the queue was full.",
}


class Measured(Protocol):
    """What the collector reads."""

    @property
    def counters(self) -> DispatchCounters: ...

    @property
    def generation(self) -> int: ...

    @property
    def parked_calls(self) -> int: ...

    @property
    def copied_bytes(self) -> int: ...

    def deployed_models(self) -> tuple[DeployedModel, ...]: ...

    def open_calls(self) -> dict[str, int]: ...

    def ready_counts(self) -> dict[str, int]: ...


class DispatchCollector(Collector):
    """Collects from the service; labels are deployed models and their revisions only."""

    def __init__(self, service: Measured) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        service = self._service
        counters = service.counters
        for field in fields(counters):
            yield CounterMetricFamily(
                f"penstock_dispatch_{field.name}",
                _HELP[field.name],
                value=getattr(counters, field.name),
            )
        yield self._open_calls()
        yield GaugeMetricFamily(
            "penstock_gateway_parked_calls",
            "Open calls that no replica can take now.",
            value=service.parked_calls,
        )
        yield CounterMetricFamily(
            "penstock_gateway_message_copied_bytes",
            "Bytes of messages to and from replicas that the gateway copied.",
            value=service.copied_bytes,
        )
        ready = GaugeMetricFamily(
            "penstock_gateway_ready_replicas",
            "Replicas that this gateway could call.",
            labels=["revision"],
        )
        for revision, count in service.ready_counts().items():
            ready.add_metric([revision], count)
        yield ready
        yield GaugeMetricFamily(
            "penstock_gateway_routing_generation",
            "Generation of the routing table that calls go by.",
            value=service.generation,
        )

    def _open_calls(self) -> Metric:
        """By model, 0 for those without any: an autoscaler needs to see that there are none."""
        family = GaugeMetricFamily(
            "penstock_gateway_open_calls", "Calls that wait for their answer.", labels=["model"]
        )
        calls = dict.fromkeys([deployed.model for deployed in self._service.deployed_models()], 0)
        for model, count in (calls | self._service.open_calls()).items():
            family.add_metric([model], count)
        return family

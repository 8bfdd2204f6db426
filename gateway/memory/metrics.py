"""The bytes that a gateway holds for clients, as metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.memory.held_bytes import KINDS
from penstock.shared.metrics.families import labelled


class HeldBytesCollector(Collector):
    """Shows what is held, by kind, and the clients that were cut off."""

    def __init__(self, bounds: ClientBounds) -> None:
        self._bounds = bounds

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        yield labelled(
            GaugeMetricFamily,
            "penstock_gateway_held_bytes",
            "Bytes held for clients: bodies that arrive, open calls, answers that are not read.",
            "kind",
            zip(KINDS, list(self._bounds.held.by_kind), strict=True),
        )
        yield CounterMetricFamily(
            "penstock_gateway_slow_clients_cut_off",
            "Connections that were ended because the client did not read its answers.",
            value=self._bounds.cut_off,
        )

"""What a daemon says of itself and its registry that somebody should mend, as metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class RegistryState(Protocol):
    """What the daemon that leads sees; see `controller.Controller`."""

    @property
    def gone_versions(self) -> int: ...

    @property
    def contested_versions(self) -> int: ...


class RegistryCollector(Collector):
    """Exposes it."""

    def __init__(self, state: RegistryState) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """All metrics, for a scrape."""
        yield GaugeMetricFamily(
            "penstock_sync_gone_versions",
            "Versions that serve though the registry has them no more, by the daemon that leads.",
            value=self._state.gone_versions,
        )
        yield GaugeMetricFamily(
            "penstock_sync_contested_versions",
            "Versions whose tags another system writes too, as the daemon that leads has seen.",
            value=self._state.contested_versions,
        )

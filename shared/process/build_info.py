"""Which build a process runs, as a metric whose labels say so."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.shared.process.compiled import is_compiled


def own_version() -> str:
    """Penstock's version; empty where it is not installed, as in an environment of a model's."""
    try:
        return metadata.version("penstock")
    except metadata.PackageNotFoundError:
        return ""


class BuildInfoCollector(Collector):
    """Shows 1, with the build in the labels. It is looked up once: it never changes."""

    def __init__(self) -> None:
        compiled = "true" if is_compiled() else "false"
        self._labels = (own_version(), compiled, platform.python_version())

    def collect(self) -> Iterator[Metric]:
        """The one sample."""
        family = GaugeMetricFamily(
            "penstock_build_info",
            "1: the version of Penstock, whether it is compiled, and Python's version.",
            labels=["version", "compiled", "python"],
        )
        family.add_metric(self._labels, 1)
        yield family

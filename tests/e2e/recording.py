"""Series recorded from a real system, as Prometheus would have scraped them.

A recording is a file of promtool's own notation (`input_series` of `promtool test rules`), with the
moments at which a fault began and ended. It has what the alerting rules read, and nothing else.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.prometheus import RULES

FOLDER = Path(__file__).parent / "recordings"
INTERVAL_S = 15
"""The scrape interval of the configuration that we ship."""

SCRAPE_TIMEOUT_S = 10.0
TARGET = {"instance": "127.0.0.1:9180", "job": "penstock"}
"""What Prometheus adds to each series, by the configuration that we ship."""

NAME = re.compile(r"\bpenstock_\w+")
HEAD = """\
# Recorded from a real system by `python -m tests.e2e.alert_faults`; not to be edited.
"""

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


def names_in_rules() -> frozenset[str]:
    """Names of the samples that the rules read."""
    groups = yaml.safe_load((RULES / "rules.yml").read_text())["groups"]
    return frozenset(
        name for group in groups for rule in group["rules"] for name in NAME.findall(rule["expr"])
    )


@dataclass(frozen=True)
class Recording:
    """What was scraped, and when the fault was there.

    Attributes:
        fault_from_s, fault_to_s: since the first scrape.
        length_s: time of the last scrape.
        series: promtool's `input_series`.
    """

    fault_from_s: int
    fault_to_s: int
    length_s: int
    series: list[dict[str, str]]

    @classmethod
    def read(cls, name: str, folder: Path = FOLDER) -> Recording:
        """A recording; one that was committed, unless a folder is named."""
        return cls(**yaml.safe_load((folder / f"{name}.yml").read_text()))

    def write(self, name: str, folder: Path) -> None:
        """Keep it."""
        text = yaml.safe_dump(self.__dict__, sort_keys=False, width=10_000)
        (folder / f"{name}.yml").write_text(HEAD + text)

    def labels(self) -> dict[str, set[frozenset[str]]]:
        """Names of labels by name of sample, without those that Prometheus adds."""
        found: dict[str, set[frozenset[str]]] = {}
        for series in self.series:
            name, _, labels = series["series"].partition("{")
            names = set(re.findall(r'(\w+)="', labels)) - TARGET.keys()
            found.setdefault(name, set()).add(frozenset(names))
        return found


@dataclass
class Recorder:
    """Scrapes a system every 15 s, in the time between which a fault is made.

    Args:
        port: of the sum of the system's metrics.
    """

    port: int
    scrapes: list[dict[Key, float]] = field(default_factory=list)
    began_at: float = 0.0
    fault: list[int] = field(default_factory=list)

    def run(self, duration_s: float) -> None:
        """Scrape for so long."""
        self.began_at = self.began_at or time.monotonic()
        for _ in range(round(duration_s / INTERVAL_S)):
            due_at = self.began_at + len(self.scrapes) * INTERVAL_S
            time.sleep(max(0.0, due_at - time.monotonic()))
            self.scrapes.append(self._scrape())

    def fault_begins(self) -> None:
        """From now on, something is wrong."""
        self.fault = [self._now_s()]

    def fault_ends(self) -> None:
        """Nothing is done any more to make anything go wrong."""
        self.fault.append(self._now_s())

    def recording(self) -> Recording:
        """All that was scraped."""
        begin_s, end_s = self.fault
        keys = dict.fromkeys(key for scrape in self.scrapes for key in scrape)
        return Recording(
            begin_s,
            end_s,
            (len(self.scrapes) - 1) * INTERVAL_S,
            [{"series": _shown(key), "values": _values(self._row(key))} for key in sorted(keys)],
        )

    def _now_s(self) -> int:
        return round(time.monotonic() - self.began_at)

    def _row(self, key: Key) -> list[float | None]:
        return [scrape.get(key) for scrape in self.scrapes]

    def _scrape(self) -> dict[Key, float]:
        up: Key = ("up", ())
        try:
            url = f"http://127.0.0.1:{self.port}/metrics"
            with urllib.request.urlopen(url, timeout=SCRAPE_TIMEOUT_S) as response:
                page = response.read().decode()
        except OSError:
            return {up: 0.0}
        return {**_samples(page), up: 1.0}


def _samples(page: str) -> dict[Key, float]:
    names = names_in_rules()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name in names
    }


def _shown(key: Key) -> str:
    name, labels = key
    pairs = [f'{label}="{value}"' for label, value in sorted({**dict(labels), **TARGET}.items())]
    return f"{name}{{{','.join(pairs)}}}"


def _values(row: Iterable[float | None]) -> str:
    """In promtool's notation: `4+0x2` is 4 three times; a series that ends is stale, then `_`."""
    words: list[str] = []
    for value, group in groupby(row):
        count = len(list(group))
        if value is not None:
            number = str(int(value)) if value == int(value) else repr(value)
            words.append(f"{number}+0x{count - 1}" if count > 1 else number)
            continue
        if words:
            words.append("stale")
            count -= 1
        if count:
            words.append(f"_x{count}")
    return " ".join(words)


def promtool_test(recording: Recording, checks: list[dict[str, Any]]) -> dict[str, Any]:
    """A file for `promtool test rules`: each check is an expression, a time and its samples."""
    return {
        "rule_files": [str(RULES / "rules.yml")],
        "evaluation_interval": f"{INTERVAL_S}s",
        "tests": [
            {
                "interval": f"{INTERVAL_S}s",
                "input_series": recording.series,
                "promql_expr_test": checks,
            }
        ],
    }

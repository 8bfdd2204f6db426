"""What processes say that they executed and copied, read from Prometheus' text; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Executed:
    """Batches of one model, since a replica's start."""

    batches: float
    rows: float
    infer_s: float

    def since(self, before: Executed) -> Executed:
        """What came after an earlier look."""
        return Executed(
            self.batches - before.batches, self.rows - before.rows, self.infer_s - before.infer_s
        )

    def ms_of(self, rows: int) -> float:
        """What so many rows took, in ms, as a share of all batches; 0 if there were none."""
        return self.infer_s / self.rows * rows * 1000 if self.rows else 0.0

    def __str__(self) -> str:
        if self.batches <= 0:
            return "no batches"
        rows, ms = self.rows / self.batches, self.infer_s / self.batches * 1000
        return f"batches of {rows:.1f} rows on average, {ms:.2f} ms each"


def executed(metrics: str, model: str) -> Executed:
    """The counters of a model, all versions together. They come with heartbeats: half a second
    may be missing."""
    return Executed(
        *(_total(metrics, f"penstock_replica_{name}_total", model) for name in COUNTERS)
    )


COPIED = (
    "penstock_gateway_body_copied_bytes_total",
    "penstock_gateway_message_copied_bytes_total",
    "penstock_replica_copied_bytes_total",
)


def copied_bytes(metrics: str) -> list[float]:
    """The counters of `COPIED`, all processes together."""
    found = []
    for name in COPIED:
        line = re.compile(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", re.MULTILINE)
        found.append(sum(float(match) for match in line.findall(metrics)))
    return found


COUNTERS = ("batches", "rows", "infer_seconds")


def _total(metrics: str, name: str, model: str) -> float:
    line = re.compile(rf'^{name}\{{[^}}]*model="{re.escape(model)}"[^}}]*\}} (\S+)$', re.MULTILINE)
    return sum(float(match) for match in line.findall(metrics))

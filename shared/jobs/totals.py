"""What the store counts of each model's jobs, for ever: the source of counters and histograms.

The scripts count a transition as they make it, so each counts once, whatever dies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.shared.jobs.record import FINISHED, JobState
from penstock.shared.wire.records import record

BOUNDS_MS: Sequence[int] = (
    *(5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000),
    *(60_000, 300_000, 900_000, 3_600_000, 4 * 3_600_000, 24 * 3_600_000),
)
"""Upper bounds of the buckets of spans; one bucket more is for all that is longer."""

LEFT = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELING)
"""States of which it is counted how long jobs stayed in them."""


@record
class Spans:
    """How long something took, many times over.

    Attributes:
        counts: for each of `BOUNDS_MS`, and for what is longer.
        total_s: all of them together, in seconds.
    """

    counts: Sequence[int]
    total_s: float

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


@record
class ModelTotals:
    """What became of one model's jobs since it first had any.

    Attributes:
        submitted: jobs.
        leased: attempts that began.
        lost: attempts that ended with their replica, or with its silence.
        released: attempts that were given back before they were made.
        spent: how long jobs stayed in a state, once for each time that one left it.
        ended: how long jobs took from their submit, or a retry, to the state that they ended in.
    """

    submitted: int
    leased: int
    lost: int
    released: int
    spent: Mapping[JobState, Spans]
    ended: Mapping[JobState, Spans]


def totals_of(fields: Mapping[str, str]) -> ModelTotals:
    """Totals that the store keeps as these fields.

    Raises:
        ValueError: if they are none.
    """

    def spans(prefix: str) -> Spans:
        buckets = range(1, len(BOUNDS_MS) + 2)
        counts = tuple(int(fields.get(f"{prefix}:{bucket}", 0)) for bucket in buckets)
        return Spans(counts, int(fields.get(f"{prefix}:ms", 0)) / 1000)

    return ModelTotals(
        submitted=int(fields.get("submitted", 0)),
        leased=int(fields.get("leased", 0)),
        lost=int(fields.get("lost", 0)),
        released=int(fields.get("released", 0)),
        spent={state: spans(f"in:{state}") for state in LEFT},
        ended={state: spans(f"to:{state}") for state in sorted(FINISHED)},
    )

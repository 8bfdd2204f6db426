"""How two servers that were measured in turn compare; pure.

The ratio of the medians is the figure; the ratios of the single pairs, of rounds that lie beside
each other in time, say how much to believe it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Ours by theirs.

    Attributes:
        of_medians: the figure.
        low, quarter, three_quarters, high: over the pairs.
    """

    of_medians: float
    low: float
    quarter: float
    three_quarters: float
    high: float

    def __str__(self) -> str:
        return (
            f"{self.of_medians:.2f} ({self.quarter:.2f}..{self.three_quarters:.2f}; "
            f"{self.low:.2f}..{self.high:.2f})"
        )


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Compare two series of rounds; None where theirs has zeros, or there are no rounds."""
    if not ours or len(ours) != len(theirs) or not all(theirs):
        return None
    pairs = np.array(ours) / np.array(theirs)
    low, quarter, three_quarters, high = np.percentile(pairs, [0, 25, 75, 100])
    middle = median(ours) / median(theirs)
    return Ratio(middle, float(low), float(quarter), float(three_quarters), float(high))

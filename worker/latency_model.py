"""How long a batch takes, learned per shape class and size.

Sizes are classed by powers of two (1, 2, 3-4, 5-8, ...). Of each class the last `WINDOW` executions
are kept: their 95th percentile is what planning counts on, because a mean would break half of the
deadlines it was used for; their minimum is what cannot be undercut, so that a call is given up only
when even the fastest execution seen would come too late. Sizes never seen are bounded from their
neighbours: time grows with the size, and at most in proportion to it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Hashable

WINDOW = 32
"""Executions remembered per class: enough for a 95th percentile, few enough to follow a change."""

SHAPE_CLASSES_MAX = 64
"""Shape classes remembered; of more, those used longest ago are forgotten."""

QUANTILE = 0.95


class _Durations:
    """The last `WINDOW` durations of one class, in order of arrival and sorted."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        if len(self._recent) == WINDOW:
            oldest = self._recent.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._recent.append(seconds)
        insort(self._sorted, seconds)

    @property
    def high(self) -> float:
        return self._sorted[int(QUANTILE * (len(self._sorted) - 1) + 0.5)]

    @property
    def low(self) -> float:
        return self._sorted[0]


def size_class(rows: int) -> int:
    """The power of two that `rows` rounds up to."""
    return 1 << max(rows - 1, 0).bit_length()


class LatencyModel:
    """Estimates of execution time, in seconds."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[Hashable, dict[int, _Durations]] = OrderedDict()

    def observe(self, shape: Hashable, rows: int, seconds: float) -> None:
        """Learn that a batch of `rows` rows took `seconds`."""
        sizes = self._shapes.get(shape)
        if sizes is None:
            sizes = self._shapes[shape] = {}
            if len(self._shapes) > SHAPE_CLASSES_MAX:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(shape)
        sizes.setdefault(size_class(rows), _Durations()).add(seconds)

    def upper(self, shape: Hashable, rows: int) -> float:
        """What a batch of `rows` rows rarely exceeds; 0 while nothing is known of the shape."""
        sizes = self._shapes.get(shape)
        if not sizes:
            return 0.0
        wanted = size_class(rows)
        known = sizes.get(wanted)
        if known is not None:
            return known.high
        bounds = [
            durations.high if size > wanted else durations.high * wanted / size
            for size, durations in sizes.items()
        ]
        return min(bounds)

    def lower(self, shape: Hashable, rows: int) -> float:
        """What a batch of `rows` rows never undercut; 0 while nothing is known of the shape."""
        sizes = self._shapes.get(shape)
        if not sizes:
            return 0.0
        wanted = size_class(rows)
        lows = [
            durations.low if size <= wanted else durations.low * wanted / size
            for size, durations in sizes.items()
        ]
        known = sizes.get(wanted)
        return known.low if known is not None else min(lows)

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

TYPICAL_AFTER = 5
"""Executions of a class before one is called typical."""


class _Durations:
    """The last `WINDOW` durations of one class, in order of arrival and sorted."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._recent)

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
    def median(self) -> float:
        return self._sorted[len(self._sorted) // 2]

    @property
    def low(self) -> float:
        return self._sorted[0]


def size_class(rows: int) -> int:
    """The power of two that `rows` rounds up to."""
    return 1 << max(rows - 1, 0).bit_length()


class Estimates:
    """Execution times of one shape class, in seconds; see `LatencyModel`.

    An estimate is worked out once, and stands until the next observation.
    """

    __slots__ = ("_highest", "_lower", "_middle", "_sizes", "_upper")

    def __init__(self) -> None:
        self._sizes: dict[int, _Durations] = {}
        self._upper: dict[int, float] = {}
        self._lower: dict[int, float] = {}
        self._highest: dict[int, float] = {}
        self._middle: dict[int, float] = {}

    def add(self, rows: int, seconds: float) -> None:
        """Learn that a batch of `rows` rows took `seconds`."""
        size = size_class(rows)
        durations = self._sizes.get(size)
        if durations is None:
            durations = self._sizes[size] = _Durations()
        durations.add(seconds)
        self._upper.clear()
        self._lower.clear()
        self._highest.clear()
        self._middle.clear()

    def upper(self, rows: int) -> float:
        """What a batch of `rows` rows rarely exceeds; 0 while nothing is known of the shape."""
        size = size_class(rows)
        estimate = self._upper.get(size)
        if estimate is None:
            estimate = self._upper[size] = self._work_out_upper(size)
        return estimate

    def lower(self, rows: int) -> float:
        """What a batch of `rows` rows never undercut; 0 while nothing is known of the shape."""
        size = size_class(rows)
        estimate = self._lower.get(size)
        if estimate is None:
            estimate = self._lower[size] = self._work_out_lower(size)
        return estimate

    def highest(self, rows: int) -> float:
        """What batches of up to `rows` rows rarely exceed: no `upper` of fewer rows is above it."""
        size = size_class(rows)
        estimate = self._highest.get(size)
        if estimate is None:
            smaller = [self.upper(1 << power) for power in range(size.bit_length())]
            estimate = self._highest[size] = max(smaller)
        return estimate

    def typical(self, rows: int) -> float:
        """The median of batches of this size class; infinite while only few were seen."""
        durations = self._sizes.get(size_class(rows))
        if durations is None or len(durations) < TYPICAL_AFTER:
            return float("inf")
        return durations.median

    def middle(self, rows: int) -> float:
        """The median of what batches of `rows` rows took; 0 while nothing is known of the shape.

        While few of a size were seen, it is no more than smaller ones make likely: else one of them
        that was slow by chance would keep us from ever trying that size again.
        """
        size = size_class(rows)
        estimate = self._middle.get(size)
        if estimate is None:
            estimate = self._middle[size] = self._work_out_middle(size)
        return estimate

    def _work_out_middle(self, wanted: int) -> float:
        known = self._sizes.get(wanted)
        if known is not None and len(known) >= TYPICAL_AFTER:
            return known.median
        bounds = [
            durations.median if size >= wanted else durations.median * wanted / size
            for size, durations in self._sizes.items()
        ]
        return min(bounds, default=0.0)

    def _work_out_upper(self, wanted: int) -> float:
        known = self._sizes.get(wanted)
        if known is not None:
            return known.high
        bounds = [
            durations.high if size > wanted else durations.high * wanted / size
            for size, durations in self._sizes.items()
        ]
        return min(bounds, default=0.0)

    def _work_out_lower(self, wanted: int) -> float:
        known = self._sizes.get(wanted)
        if known is not None:
            return known.low
        lows = [
            durations.low if size <= wanted else durations.low * wanted / size
            for size, durations in self._sizes.items()
        ]
        return min(lows, default=0.0)


_UNKNOWN = Estimates()


class LatencyModel:
    """Estimates of execution time, by shape class."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[Hashable, Estimates] = OrderedDict()

    def observe(self, shape: Hashable, rows: int, seconds: float) -> None:
        """Learn that a batch of `rows` rows took `seconds`."""
        estimates = self._shapes.get(shape)
        if estimates is None:
            estimates = self._shapes[shape] = Estimates()
            if len(self._shapes) > SHAPE_CLASSES_MAX:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(shape)
        estimates.add(rows, seconds)

    def of(self, shape: Hashable) -> Estimates:
        """What is known of a shape."""
        return self._shapes.get(shape, _UNKNOWN)

    def upper(self, shape: Hashable, rows: int) -> float:
        """What a batch of `rows` rows rarely exceeds; 0 while nothing is known of the shape."""
        return self.of(shape).upper(rows)

    def lower(self, shape: Hashable, rows: int) -> float:
        """What a batch of `rows` rows never undercut; 0 while nothing is known of the shape."""
        return self.of(shape).lower(rows)

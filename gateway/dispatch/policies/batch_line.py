"""How long batches take at their size: a line through recent ones.

Batches are as good as linear in their size (Clipper, NSDI 2017; Nexus, SOSP 2019): something to
start with, and something for each row. The line is fitted by exponentially weighted least squares,
which needs four averages and no history. Two things are known of it beforehand, as in
`penstock.worker.session.latency_model`: time does not fall with the size, and grows at most in
proportion to it.

While only one size was seen, other sizes are taken to cost the same. Where the sizes vary no more,
what was known of the slope stays.

Used by `penstock.gateway.dispatch.policies.admission`.
"""

from __future__ import annotations

VARIANCE_MIN = 1e-9
"""Below this, in rows squared, sizes do not vary, and a slope could be anything."""


class BatchLine:
    """A batch of n rows takes `intercept_s + slope_s * n` seconds; both 0 while nothing is known.

    Attributes:
        known: whether any batch was learned from.
    """

    __slots__ = (
        "_covariance",
        "_mean_rows",
        "_mean_s",
        "_variance",
        "intercept_s",
        "known",
        "slope_s",
    )

    def __init__(self) -> None:
        self.intercept_s = 0.0
        self.slope_s = 0.0
        self.known = False
        self._mean_rows = 0.0
        self._mean_s = 0.0
        self._variance = 0.0
        self._covariance = 0.0

    def __repr__(self) -> str:
        return f"<BatchLine {self.intercept_s:.6f} + {self.slope_s:.6f} * rows s>"

    def learn(self, rows: int, seconds: float, weight: float) -> None:
        """A batch of so many rows, at least one, took so long; the first one counts whole."""
        if not self.known:
            self.known = True
            weight = 1.0
        more_rows = rows - self._mean_rows
        more_s = seconds - self._mean_s
        self._mean_rows += weight * more_rows
        self._mean_s += weight * more_s
        rest = 1.0 - weight
        self._variance = rest * (self._variance + weight * more_rows * more_rows)
        self._covariance = rest * (self._covariance + weight * more_rows * more_s)
        slope_s = self.slope_s
        if self._variance > VARIANCE_MIN:
            slope_s = self._covariance / self._variance
        steepest_s = self._mean_s / self._mean_rows
        self.slope_s = slope_s = min(max(slope_s, 0.0), steepest_s)
        self.intercept_s = max(self._mean_s - slope_s * self._mean_rows, 0.0)

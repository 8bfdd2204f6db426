"""What a gateway keeps of each model, whatever its versions: open calls, and extra attempts."""

from __future__ import annotations

from penstock.gateway.dispatch.policies.hedging import HedgeBudget
from penstock.gateway.dispatch.policies.throttle import RetryThrottle, ThrottleSettings


class ModelState:
    """One model.

    Attributes:
        name: of the registered model.
        open: its open calls.
        bytes: of their inputs.
        throttle: for its retries and hedges.
        hedges: tokens for its hedges.
    """

    __slots__ = ("_fraction", "bytes", "hedges", "name", "open", "throttle")

    def __init__(self, name: str, throttle: ThrottleSettings, hedge_fraction: float) -> None:
        self.name = name
        self.open = 0
        self.bytes = 0
        self.throttle = RetryThrottle(throttle)
        self.hedges = HedgeBudget(hedge_fraction)
        self._fraction = hedge_fraction

    def __repr__(self) -> str:
        return f"<ModelState {self.name!r}, {self.open} open>"

    def budget_set(self, hedge_fraction: float) -> None:
        """The operator may have changed the share of calls that are hedged."""
        if hedge_fraction != self._fraction:
            self._fraction = hedge_fraction
            self.hedges = HedgeBudget(hedge_fraction)

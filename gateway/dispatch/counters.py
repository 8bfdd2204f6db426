"""What dispatch counts: plain numbers that are read when metrics are scraped."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import frexp
from typing import Final

from penstock.gateway.dispatch.attempts import AttemptReason
from penstock.gateway.dispatch.policies.hedging import HedgeDenial
from penstock.shared.wire.messages import NackReason

MARGIN_BUCKETS: Final = 20
"""Powers of two of margins that are told apart, the first being all below `MARGIN_FIRST_S`."""

MARGIN_FIRST_S = 2.0**-10
"""About a millisecond: what is nearer to its deadline was lucky."""

_SHIFT: Final = 10


class CancelReason(StrEnum):
    """Why an attempt or a call is not wanted any more."""

    CLIENT = "client"  # calls that their client gave up
    DEADLINE = "deadline"  # attempts in flight when the deadline passed
    HEDGE = "hedge"  # attempts that lost against the other one


class ShedReason(StrEnum):
    """Why a call was not let in, or had to leave before it was executed."""

    CALLS = "calls"  # as many open calls as there may be
    BYTES = "bytes"  # as many bytes of inputs as there may be
    BACKLOG = "backlog"  # it could not be expected to be answered in time
    REPLICAS_FULL = "replicas_full"  # refused by each replica, or by one and the throttle


class HedgeResult(StrEnum):
    """What became of a hedge."""

    WON = "won"
    LOST = "lost"  # the other attempt was faster
    FAILED = "failed"  # refused, or lost with its replica, or too late as well


@dataclass
class DispatchCounters:
    """Totals since the start, by reason where there are several.

    Attributes:
        first_attempts, more_attempts: sent to replicas.
        late: answers that came after their attempt had ended.
        expired: calls whose deadline passed, or that waited longer than they may.
        margins: answered calls by what was left until their deadline.
        margin_s: sum of that, in seconds.
    """

    first_attempts: int = 0
    late: int = 0
    expired: int = 0
    more_attempts: dict[AttemptReason, int] = field(
        default_factory=lambda: dict.fromkeys(AttemptReason, 0)
    )
    nacks: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys([reason.name.lower() for reason in NackReason], 0)
    )
    lost: int = 0
    cancels: dict[CancelReason, int] = field(default_factory=lambda: dict.fromkeys(CancelReason, 0))
    sheds: dict[ShedReason, int] = field(default_factory=lambda: dict.fromkeys(ShedReason, 0))
    hedges: dict[HedgeResult, int] = field(default_factory=lambda: dict.fromkeys(HedgeResult, 0))
    denied: dict[HedgeDenial, int] = field(default_factory=lambda: dict.fromkeys(HedgeDenial, 0))
    margins: list[int] = field(default_factory=lambda: [0] * MARGIN_BUCKETS)
    margin_s: float = 0.0

    def answered(self, margin_s: float) -> None:
        """A call was answered so long before its deadline."""
        bucket = 0
        if margin_s > 0:  # an answer may come just before its deadline is looked at
            self.margin_s += margin_s
            bucket = frexp(margin_s)[1] + _SHIFT
        if not 0 <= bucket < MARGIN_BUCKETS:
            bucket = 0 if bucket < 0 else MARGIN_BUCKETS - 1
        self.margins[bucket] += 1


def margin_bounds_s() -> list[float]:
    """The upper end of each bucket of `margins` but the last, which has none."""
    return [MARGIN_FIRST_S * 2.0**bucket for bucket in range(MARGIN_BUCKETS - 1)]

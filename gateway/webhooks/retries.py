"""What becomes of an event after an attempt: delivered, to be tried again later, or given up.

    2xx                       delivered
    410                       given up: the receiver says that it wants no more
    anything else, silence    tried again after the schedule's next delay; given up at its end

A redirect is not followed: where it leads to, nobody has checked. Delays have some chance in them,
so that events that failed together do not come back together, and a receiver that asks for more
time (Retry-After in seconds) gets it, within a bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

GONE = 410


@dataclass(frozen=True)
class Delivered:
    """The receiver has it."""

    status: int


@dataclass(frozen=True)
class Retry:
    """Try again.

    Attributes:
        after_s: from now.
        attempt: number of the next attempt.
        reason: why this one failed, for the operator.
    """

    after_s: float
    attempt: int
    reason: str


@dataclass(frozen=True)
class GaveUp:
    """No further attempt will be made; the reason is for the operator."""

    reason: str


DeliveryOutcome: TypeAlias = Delivered | Retry | GaveUp


@dataclass(frozen=True)
class RetrySchedule:
    """When an event is tried again.

    Attributes:
        delays_s: before the second attempt, the third and so on; after the last one it is given up.
        jitter: the share of a delay that chance may add to it.
        retry_after_s_max: longest delay that a receiver can ask for.
    """

    delays_s: tuple[float, ...]
    jitter: float
    retry_after_s_max: float

    def after_answer(
        self, status: int, retry_after: str | None, attempt: int, chance: float
    ) -> DeliveryOutcome:
        """What follows an answer.

        Args:
            retry_after: the header, if there was one.
            attempt: the number of the one that was answered, from 1.
            chance: 0 to 1.
        """
        if 200 <= status < 300:
            return Delivered(status)
        if status == GONE:
            return GaveUp("the receiver wants no more (410)")
        return self.after_failure(f"answered {status}", attempt, chance, _seconds(retry_after))

    def after_failure(
        self, reason: str, attempt: int, chance: float, asked_s: float = 0.0
    ) -> Retry | GaveUp:
        """What follows an attempt without an answer, or with one that is none.

        Args:
            asked_s: how long the receiver asked us to wait.
        """
        if attempt > len(self.delays_s):
            return GaveUp(f"{attempt} attempts failed; the last one: {reason}")
        least_s = max(self.delays_s[attempt - 1], min(asked_s, self.retry_after_s_max))
        return Retry(least_s * (1 + self.jitter * chance), attempt + 1, reason)


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds; 0 for none, and for a date, which a wrong clock would make a trap."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return 0.0
    return float(retry_after[:10])

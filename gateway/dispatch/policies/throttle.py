"""How many extra attempts a model's calls may make: the throttle that retries and hedges share.

Theory. A retry helps where one replica has a bad moment, and does harm where all of them have: each
call then costs several attempts just when there is no room for one. Two bounds keep extra attempts
from amplifying an outage, and both must agree:

- *Tokens*, as gRPC's retry throttling has them (gRFC A6, "Throttling Retry Attempts and Hedged
  RPCs"). Each Nack, each retryable error and each hedge draws one token, each answered call pays
  a part of one back, and extra attempts are made only while more than half of the tokens are left.
  So where more than about one attempt in ten is refused, calls soon get one attempt each. Unlike
  A6, a hedge draws when it is sent: it is load whatever becomes of it.
- A *budget*, as Envoy's retry budget has it: extra attempts in flight at one time are at most a
  share of the model's open calls, or a few. It bounds what can be made in the short time in which
  tokens are still there.

What is refused because its replica drains, or is lost with it, is not asked for here: that happens
once in the life of a replica and cannot amplify (A6's "transparent retries").

    draw                    pay back
    Nack, error: 1          answer: `refund`
    hedge sent:  1

Invariants (tests/unit/gateway/dispatch/policies/test_throttle.py): tokens stay between 0 and the
maximum; extra attempts in flight never exceed the budget as it was when they began; all extra
attempts ever made are at most half of the tokens and `refund` for each answer.

Used by `penstock.gateway.dispatch.dispatch`, one throttle per model.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThrottleSettings:
    """Bounds of extra attempts.

    Attributes:
        tokens_max: tokens at the start, and most that can be saved up. Half of them can be drawn
            in a row: 50 lets one replica's full queue pass unnoticed, and ends within a second at
            100 calls per second when half of the replicas refuse.
        refund: tokens that an answer pays back: with 0.1, A6's example, extra attempts settle at
            one for ten answers.
        active_share: most extra attempts in flight, as a share of open calls; Envoy's 20%.
        extra_min: extra attempts in flight that are always within the budget, since a share of few
            calls is none; Envoy's 3.
    """

    tokens_max: float = 100.0
    refund: float = 0.1
    active_share: float = 0.2
    extra_min: int = 3


class RetryThrottle:
    """See the module's docstring. An extra attempt that was allowed must be `ended` once."""

    __slots__ = ("_extra", "_settings", "_threshold", "_tokens")

    def __init__(self, settings: ThrottleSettings) -> None:
        self._settings = settings
        self._tokens = settings.tokens_max
        self._threshold = settings.tokens_max / 2
        self._extra = 0

    def __repr__(self) -> str:
        return f"<RetryThrottle {self._tokens:.1f} tokens, {self._extra} extra in flight>"

    @property
    def tokens(self) -> float:
        """Tokens that are left."""
        return self._tokens

    @property
    def extra(self) -> int:
        """Extra attempts in flight."""
        return self._extra

    def answered(self) -> None:
        """A call was answered: part of a token comes back."""
        tokens, most = self._tokens, self._settings.tokens_max
        if tokens < most:
            tokens += self._settings.refund
            self._tokens = tokens if tokens < most else most

    def failed(self) -> None:
        """An attempt came back with a Nack or a retryable error, whether or not it is retried."""
        self._tokens = max(self._tokens - 1.0, 0.0)

    def allows(self, open_calls: int) -> bool:
        """Whether one more extra attempt may be made while so many calls of the model are open."""
        settings = self._settings
        most = max(open_calls * settings.active_share, settings.extra_min)
        return self._tokens > self._threshold and self._extra + 1 <= most

    def retried(self) -> None:
        """A retry that was allowed begins; the failure before it has drawn its token."""
        self._extra += 1

    def hedged(self) -> None:
        """A hedge that was allowed begins."""
        self._tokens = max(self._tokens - 1.0, 0.0)
        self._extra += 1

    def ended(self) -> None:
        """An extra attempt is over, whatever came of it."""
        if self._extra == 0:
            raise ValueError("no extra attempt was in flight")
        self._extra -= 1


def backoff_s_max(retry: int, initial_s: float, most_s: float) -> float:
    """Longest wait before a retry, the first being 1; the wait itself is drawn from 0 to this.

    "Full jitter" (Brooker, "Exponential Backoff and Jitter", AWS 2015; gRFC A6 has the same): of
    all ways to spread retries it makes calls that failed together collide least.
    """
    return min(most_s, initial_s * 2.0 ** min(retry - 1, 32))

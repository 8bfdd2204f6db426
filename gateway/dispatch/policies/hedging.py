"""When a slow call gets a second attempt at another replica, and when it must not.

Theory (Dean and Barroso, "The Tail at Scale", 2013). Most slow calls are slow by bad luck with
their replica: a pause, a neighbour, a long batch in front. A second attempt elsewhere, sent when
the first has taken longer than most do, ends the wait, and costs only the calls that are slow. So:

- *The delay* is the 95th percentile of attempts of the same revision and size class (powers of two
  of rows), learned. It is never below `tail_min` medians, since where times hardly vary the slowest
  5% have nothing to win, nor below what the event loop's timers can tell apart.
- *The budget* is a bucket of tokens: every call earns `fraction` of one, every hedge takes a whole
  one. So hedges are that fraction of calls, and a burst: enough for what one replica held when it
  stopped.
- *A hedge must be able to help*: another replica is ready, was not tried, and is not saturated
  (hedges into queues make the queues longer, unless the first replica has stopped and does nothing
  for it), and what is left of the deadline is no less than the median. The throttle of retries
  (`penstock.gateway.dispatch.policies.throttle`) must agree.
- *One at a time*: of the calls that a replica may hang on, one at a time is hedged at each other
  replica: if one of them is what hung it, another one hangs with that call alone. A call
  that both executed is then the culprit, and no innocent ones are lost twice with it. A replica
  that does not even tell its load has stopped with all it holds, and nothing holds those back.
- *Only beside a replica that lives*: one that was not heard just now is asked how it does, and a
  hedge waits for its answer, or for `answer_s`. A process that died needs a moment to be found
  lost; what it died of would kill the next one meanwhile.

What is learned. Each call's first attempt counts once, from its sending to its end: a fair sample,
which hedges, sent to replicas that look better, are not. One that is cancelled because its hedge
won counts with the time that it had taken by then: its true time is longer, but that is beyond the
percentile already, and for a percentile it only matters on which side a time lies. Left out, the
slow ones would be missing, and the learned delay would sink as it is used. What is given up before
the delay (the client left) tells nothing, and does not count.

Times fall into buckets 9% wide, so that an estimate is at most so much too high and never too low,
in memory that is the same for any number of calls. To count one is an increment; percentiles are
worked out once for `REFRESH_EVERY` of them, and all counts are halved at `WINDOW`, so that the past
fades. The estimate rises soon (a share of 5% of slow calls does it) and sinks slowly (the slow ones
must fade to below 5%): hedging is quick to become reluctant, and slow to become eager.

Invariants (tests/unit/gateway/dispatch/policies/test_hedging.py): an estimate is at or above the
exact percentile and within a bucket of it; hedges are at most `burst` and `fraction` of the calls.

Used by `penstock.gateway.dispatch.dispatch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import log2

from penstock.shared.contracts.routing import HedgePolicy

BUCKETS_PER_OCTAVE = 8
"""Buckets from a time to twice that time: each is 2**(1/8) = 9% wide."""

SHORTEST_S = 2.0**-14
"""Times below this, 61 us, share the first bucket: no call over a socket is as short."""

BUCKETS = 24 * BUCKETS_PER_OCTAVE
"""Up to 1024 s; longer times share the last bucket."""

REFRESH_EVERY = 64
"""Observations between two looks at all buckets, which cost as much as about ten observations."""

WINDOW = 512
"""Observations after which all counts are halved: with half of them, 13 are beyond p95 still."""

SIZE_CLASSES = 18
"""Powers of two of rows that are told apart; the largest batch there can be has 2**16."""


@dataclass(frozen=True)
class HedgeSettings:
    """How hedging behaves where the operator says nothing else.

    Attributes:
        samples_min: attempts of a size class before its percentile counts for anything: 40 have
            two beyond p95.
        delay_s_min: shortest learned delay; a turn of a busy event loop takes about as long.
        tail_min: shortest learned delay in medians. At 1.5, a hedge that takes a median more ends
            before 2.5 medians: calls that would end before that anyway are not worth one.
        answer_s: how long a hedge waits for the answer of a replica that may have died: its end is
            known by then.
        answer_look_s: how often it is looked whether the answer came; heard so recently, a replica
            is not asked.
        stopped_s: a replica that was silent for so long has stopped: three probes got no answer.
        look_s_max: longest wait between two looks at a call whose hedge was denied, each wait being
            twice as long as the one before; unless the learned delay is longer.
        saturated_batches: a replica with so many full batches in front is saturated: one runs, and
            one waits that no late arrival can join.
    """

    samples_min: int = 40
    delay_s_min: float = 0.002
    tail_min: float = 1.5
    answer_s: float = 0.025
    answer_look_s: float = 0.002
    stopped_s: float = 0.35
    look_s_max: float = 0.25
    saturated_batches: int = 2


class LatencyHistogram:
    """How long attempts of one size class take; see the module's docstring.

    Attributes:
        median_s, high_s: 50th and 95th percentile, in seconds; 0 while too little is known.
    """

    __slots__ = ("_counts", "_known", "_until_refresh", "high_s", "median_s")

    def __init__(self, samples_min: int) -> None:
        self.median_s = 0.0
        self.high_s = 0.0
        self._counts = [0.0] * BUCKETS
        self._known = 0.0
        self._until_refresh = samples_min

    def __repr__(self) -> str:
        return f"<LatencyHistogram p50 {self.median_s:.4f} s, p95 {self.high_s:.4f} s>"

    def observe(self, seconds: float) -> None:
        """A first attempt ended, or lost against its hedge, after so long."""
        if seconds <= SHORTEST_S:
            self._counts[0] += 1.0
        else:
            bucket = int(log2(seconds / SHORTEST_S) * BUCKETS_PER_OCTAVE)
            self._counts[bucket if bucket < BUCKETS else -1] += 1.0
        self._until_refresh -= 1
        if not self._until_refresh:
            self._refresh()

    def _refresh(self) -> None:
        self._until_refresh = REFRESH_EVERY
        counts = self._counts
        self._known = sum(counts)
        self.high_s = self._beyond(0.05)
        self.median_s = self._beyond(0.5)
        if self._known >= WINDOW:
            self._counts = [count / 2 for count in counts]

    def _beyond(self, share: float) -> float:
        """The upper edge of the bucket down to which at most `share` of all times lie beyond."""
        left = self._known * share
        for bucket in range(BUCKETS - 1, -1, -1):
            left -= self._counts[bucket]
            if left < 0:
                return float(SHORTEST_S * 2.0 ** ((bucket + 1) / BUCKETS_PER_OCTAVE))
        return SHORTEST_S


class Latencies:
    """The histograms of one revision, by size class. Bounded, as size classes are."""

    __slots__ = ("_by_class", "_samples_min")

    def __init__(self, settings: HedgeSettings) -> None:
        self._samples_min = settings.samples_min
        self._by_class: list[LatencyHistogram | None] = [None] * SIZE_CLASSES

    def of(self, rows: int) -> LatencyHistogram:
        """The histogram for attempts of so many rows."""
        size_class = min((rows - 1).bit_length(), SIZE_CLASSES - 1) if rows > 1 else 0
        known = self._by_class[size_class]
        if known is None:
            known = self._by_class[size_class] = LatencyHistogram(self._samples_min)
        return known


def hedge_delay(
    policy: HedgePolicy, latency: LatencyHistogram, settings: HedgeSettings
) -> float | None:
    """How long an attempt may take before another is considered, in seconds; None: for ever."""
    if policy == "auto":
        high_s = latency.high_s
        if not high_s:
            return None
        return max(high_s, settings.tail_min * latency.median_s, settings.delay_s_min)
    return None if policy == "off" else policy / 1000


class HedgeBudget:
    """Tokens for the hedges of one model.

    Args:
        fraction: hedges per call that it earns, 0 for no hedges at all.
        burst: most hedges in a row; also what there is at the start.
    """

    __slots__ = ("_burst", "_fraction", "_tokens")

    def __init__(self, fraction: float = 0.05, burst: float = 10.0) -> None:
        self._fraction = fraction
        self._burst = burst if fraction else 0.0
        self._tokens = self._burst

    def __repr__(self) -> str:
        return f"<HedgeBudget {self._tokens:.2f} of {self._burst:g}, {self._fraction:g} per call>"

    @property
    def left(self) -> float:
        """Hedges that could be sent now."""
        return self._tokens

    def earn(self) -> None:
        """A call was submitted."""
        tokens = self._tokens + self._fraction
        self._tokens = tokens if tokens < self._burst else self._burst

    def spend(self) -> None:
        """A hedge is sent; only while `left` is at least 1."""
        if self._tokens < 1.0:
            raise ValueError("the hedge budget is used up")
        self._tokens -= 1.0


class HedgeDenial(StrEnum):
    """Why a call that waited for its hedging delay gets no hedge (now)."""

    FEW_REPLICAS = "few_replicas"  # no ready replica was not tried yet
    ONE_AT_A_TIME = "one_at_a_time"  # other calls of the same replica are hedged there
    SATURATED = "saturated"  # all of those are
    DEADLINE = "deadline"  # too little is left for another attempt to help
    BUDGET = "budget"  # more calls must come first
    THROTTLED = "throttled"  # too many attempts fail


@dataclass(frozen=True, slots=True)
class HedgeFacts:
    """What is to be known of a call that is slow.

    Attributes:
        untried: ready replicas, none of which the call was sent to.
        unsaturated: of these, those that are not saturated.
        remaining_s: what is left of the call's deadline.
        throttle_allows: what `RetryThrottle.allows` says.
        open_to: of the untried ones, those at which no other call of the slow replica is hedged, if
            that matters.
    """

    untried: int
    unsaturated: int
    remaining_s: float
    throttle_allows: bool
    open_to: int = 1


def may_hedge(
    facts: HedgeFacts, latency: LatencyHistogram, budget: HedgeBudget
) -> HedgeDenial | None:
    """Why a slow call must not be hedged; None if it may."""
    if facts.untried < 1:
        return HedgeDenial.FEW_REPLICAS
    if facts.open_to < 1:
        return HedgeDenial.ONE_AT_A_TIME
    if facts.unsaturated < 1:
        return HedgeDenial.SATURATED
    if facts.remaining_s <= 0 or facts.remaining_s < latency.median_s:
        return HedgeDenial.DEADLINE
    if budget.left < 1.0:
        return HedgeDenial.BUDGET
    return None if facts.throttle_allows else HedgeDenial.THROTTLED


def is_saturated(backlog_rows: int, max_batch_size: int, settings: HedgeSettings) -> bool:
    """Whether a replica with so many rows in front would only make a hedge wait."""
    return backlog_rows >= settings.saturated_batches * max(max_batch_size, 1)

"""Which replicas are left out for a while, because they are much worse than their peers.

Theory. A replica can be ready, heard of, and still of no use: it refuses everything, or takes many
times as long as the others do. Choice by backlog does not see the first at all, as a queue that
refuses is always short. So, as in Envoy's outlier detection and gRFC A50, a replica is *ejected* by
what becomes of the calls that it is sent:

- `failures_max` failures in a row. A failure is an attempt that came to nothing and might have come
  to something elsewhere: a Nack, a retryable error, no answer by the deadline. What the model says
  of an input is none.
- `slow_factor` times the median of its peers' average times, and `slow_s_min` more. Choice by
  backlog already gives a slower replica less to do, and then it takes about as long as the others:
  only one that is an outlier nevertheless is worth nothing.

An outlier is something that peers are not: at most `ejected_share` of a revision's replicas are out
at one time, none while as many of the others fail too, and so a single replica never is.

    IN --fails in a row, or slow--> OUT --its while is over--> PROBED --answers--> IN
                                     ^                           |
                                     +-----fails, or is slow-----+   each time for twice as long

A probed replica is sent one call at a time. Each ejection lasts twice as long as the one before;
who has behaved for `forgive_s` starts anew.

Invariants (tests/unit/gateway/dispatch/policies/test_ejection.py): no more are out than may be;
whoever is out is probed when its while is over; a replica that is probed holds one call at a time.

Used by `penstock.gateway.dispatch.dispatch`, one for each revision; `Standing` belongs to the
replica's record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from statistics import median_low

SMOOTHING = 0.1
"""Weight of the newest answer in a replica's average time: the last ten or twenty count."""


@dataclass(frozen=True)
class EjectionSettings:
    """What makes an outlier, and what becomes of it.

    Attributes:
        failures_max: failures in a row; Envoy's 5. Where half of all calls fail by chance, one in
            32 rows of five does.
        slow_factor, slow_s_min: an average time beyond so many medians of the peers', and so much
            beyond it. Below 10 ms the scheduler and the collector make outliers of anyone.
        samples_min: answers before an average counts.
        out_s: how long the first ejection lasts: ten reports of load, in which a pause passes.
        out_s_max: how long one lasts at most.
        ejected_share: most replicas of a revision that may be out or probed.
        probes_min: answers in a row that end a probe.
        forgive_s: time after its return in which nothing must happen, for a clean record.
    """

    failures_max: int = 5
    slow_factor: float = 3.0
    slow_s_min: float = 0.01
    samples_min: int = 20
    out_s: float = 1.0
    out_s_max: float = 60.0
    ejected_share: float = 0.5
    probes_min: int = 3
    forgive_s: float = 60.0


class State(Enum):
    """Where a replica stands."""

    IN = "in"
    OUT = "out"
    PROBED = "probed"


IN = State.IN


class Standing:
    """What is known of one replica's behaviour.

    Attributes:
        state: IN takes calls, OUT none, PROBED one at a time.
        failures: failures in a row.
        average_s: moving average of the times of its answers.
        samples: answers that are in it.
        ejections: how often it was ejected in a row, without being forgiven.
        until: when its while is over (OUT), or when it is forgiven (IN).
        probing: it holds the one call of a probe.
    """

    __slots__ = (
        "average_s",
        "ejections",
        "failures",
        "probing",
        "samples",
        "state",
        "until",
    )

    def __init__(self) -> None:
        self.state = IN
        self.failures = 0
        self.average_s = 0.0
        self.samples = 0
        self.ejections = 0
        self.until = 0.0
        self.probing = False

    def __repr__(self) -> str:
        return f"<Standing {self.state.value}, {self.failures} failures, {self.average_s:.4f} s>"

    def answered(self, seconds: float) -> None:
        """It answered an attempt, after so long."""
        self.failures = 0
        self.took(seconds)

    def took(self, seconds: float) -> None:
        """An attempt took so long, or longer: another replica was faster."""
        self.samples += 1
        if self.samples == 1:
            self.average_s = seconds
        else:
            self.average_s += SMOOTHING * (seconds - self.average_s)

    @property
    def takes_calls(self) -> bool:
        """Whether it may be sent a call."""
        return self.state is IN or (self.state is State.PROBED and not self.probing)


class Ejection:
    """The replicas of one revision; see the module's docstring.

    Attributes:
        ejections: how often any was ejected.
        all_in: all take calls, so that nobody needs to look at each.
    """

    def __init__(self, settings: EjectionSettings) -> None:
        self.ejections = 0
        self.all_in = True
        self._settings = settings
        self._standings: list[Standing] = []

    def __repr__(self) -> str:
        return f"<Ejection {self.ejected} of {len(self._standings)} out>"

    @property
    def ejected(self) -> int:
        """Replicas that are out, or probed."""
        return sum(standing.state is not IN for standing in self._standings)

    def joined(self, standing: Standing) -> None:
        """A replica became known."""
        self._standings.append(standing)

    def left(self, standing: Standing) -> None:
        """A replica is gone; of those that are left, fewer may be out."""
        self._standings.remove(standing)
        while self.ejected > self._most():
            out = [each for each in self._standings if each.state is not IN]
            self._take_back(min(out, key=lambda each: each.until), forgiven_at=0.0)
        self.all_in = self.ejected == 0

    def sent(self, standing: Standing) -> None:
        """A replica that is not IN was sent a call."""
        standing.probing = True

    def failed(self, standing: Standing, now: float) -> None:
        """An attempt at a replica came to nothing."""
        standing.failures += 1
        if standing.state is State.PROBED:
            self._eject(standing, now)
        elif standing.state is IN and standing.failures >= self._settings.failures_max:
            failing = sum(
                each.failures >= self._settings.failures_max
                for each in self._standings
                if each.state is IN
            )
            if failing * 2 <= len(self._standings):
                self._eject_if_allowed(standing, now)

    def ended(self, standing: Standing) -> None:
        """The call of a probe is over; `answered`, `failed` or neither of them said how."""
        standing.probing = False

    def judge(self, now: float) -> None:
        """Look at all: who is slow, whose while is over, who is to be forgiven.

        Called when a replica reports its load, not for each call.
        """
        for standing in self._standings:
            if standing.state is State.OUT and standing.until <= now:
                standing.state = State.PROBED
                standing.probing = False
                standing.failures = standing.samples = 0
            elif standing.state is State.PROBED:
                self._judge_probe(standing, now)
            elif standing.ejections and standing.until <= now:
                standing.ejections = 0
        for standing in self._standings:
            if standing.state is IN and self._is_slow(standing, self._settings.samples_min):
                self._eject_if_allowed(standing, now)

    def _judge_probe(self, standing: Standing, now: float) -> None:
        if standing.samples < self._settings.probes_min:
            return
        if self._is_slow(standing, self._settings.probes_min):
            self._eject(standing, now)
        else:
            self._take_back(standing, forgiven_at=now + self._settings.forgive_s)

    def _is_slow(self, standing: Standing, samples_min: int) -> bool:
        if standing.samples < samples_min:
            return False
        peers = [
            each.average_s
            for each in self._standings
            if each is not standing
            and each.state is IN
            and each.samples >= self._settings.samples_min
        ]
        if not peers:
            return False
        normal_s = median_low(peers)
        settings = self._settings
        return standing.average_s > max(
            settings.slow_factor * normal_s, normal_s + settings.slow_s_min
        )

    def _most(self) -> int:
        return int(self._settings.ejected_share * len(self._standings))

    def _eject_if_allowed(self, standing: Standing, now: float) -> None:
        if self.ejected < self._most():
            self._eject(standing, now)

    def _eject(self, standing: Standing, now: float) -> None:
        settings = self._settings
        doublings = min(standing.ejections, 32)
        standing.state = State.OUT
        standing.until = now + min(settings.out_s * 2.0**doublings, settings.out_s_max)
        standing.ejections += 1
        standing.failures = standing.samples = 0
        self.ejections += 1
        self.all_in = False

    def _take_back(self, standing: Standing, *, forgiven_at: float) -> None:
        standing.state = IN
        standing.until = forgiven_at
        standing.failures = standing.samples = 0
        standing.probing = False
        self.all_in = self.ejected == 0

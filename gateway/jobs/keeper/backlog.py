"""How long what waits will keep the replicas busy, learned from how fast they were; pure.

While jobs wait, replicas are busy, so what they end in that time is all that they can:

    seconds per job and replica = busy replica-seconds / attempts ended in them

Both sums fade with a half-life, so a new version or a better batch is learned within minutes. What
a job takes in a replica (its running time, which a batch shares) is the guess to begin with; it
weighs as much as one attempt. The backlog of a model counts what waits and what runs.

Invariants: the estimate is finite and not negative, and 0 exactly where nothing waits or runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.shared.wire.records import record

HALF_LIFE_S = 300.0
"""Half of what was learned is forgotten in so much busy time."""

GAP_S_MAX = 30.0
"""Nothing is learned of a time that was not looked at; the store was away, maybe the replicas."""


@record
class Sample:
    """One model at one time.

    Attributes:
        waiting: jobs in its queues.
        in_flight: jobs that replicas hold.
        ended: attempts that ended since whenever.
        run_s: running times of those, added up.
        replicas: that are ready and take jobs.
    """

    waiting: int
    in_flight: int
    ended: int
    run_s: float
    replicas: int


@dataclass(slots=True)
class _Learned:
    last: Sample
    at: float
    busy_s: float = 0.0
    attempts: float = 0.0


class Backlogs:
    """Estimates of all models that have jobs; others are forgotten."""

    def __init__(self) -> None:
        self._models: dict[str, _Learned] = {}

    def observe(self, samples: Mapping[str, Sample], now: float) -> dict[str, float]:
        """Seconds until each model's replicas would be through with what there is.

        Args:
            samples: by model.
            now: monotonic seconds.
        """
        learned: dict[str, _Learned] = {}
        for model, sample in samples.items():
            known = self._models.get(model)
            learned[model] = _Learned(sample, now) if known is None else _learn(known, sample, now)
        self._models = learned
        return {model: _seconds(each) for model, each in learned.items()}


def _learn(known: _Learned, sample: Sample, now: float) -> _Learned:
    before, passed_s = known.last, now - known.at
    known.last, known.at = sample, now
    ended = sample.ended - before.ended
    busy = before.waiting > 0 and sample.waiting > 0 and before.replicas == sample.replicas
    if not busy or not before.replicas or not 0 < passed_s <= GAP_S_MAX or ended < 0:
        return known
    kept = 0.5 ** (passed_s / HALF_LIFE_S)
    known.busy_s = known.busy_s * kept + passed_s * sample.replicas
    known.attempts = known.attempts * kept + ended
    return known


def _seconds(known: _Learned) -> float:
    sample = known.last
    guess_s = sample.run_s / sample.ended if sample.ended > 0 else 0.0
    per_job_s = (known.busy_s + guess_s) / (known.attempts + 1)
    return (sample.waiting + sample.in_flight) * per_job_s / max(sample.replicas, 1)

"""What `penstock wait` waits for, and how far a model is from it (pure).

The words are those of the tags. What registry_sync tries again is not over: `failed` is waited out.
What no wait can change is: `invalid` and `superseded`, until somebody changes a tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from penstock.registry_sync.sources.types import OVER, Status

SETTLE_S = 5.0
"""How long a failure that was there from the start must stand: a tag that was mended a moment ago
is seen at the next look at the registry, two seconds later, and told a second after that."""

_RUNS_NO_MORE = OVER | {Status.SUPERSEDED, Status.INVALID}
_ON_ITS_WAY = frozenset({Status.LOADING, Status.READY, Status.FAILED})


class Goal(StrEnum):
    """What a version, or a model, is to come to."""

    SERVING = "serving"
    READY = "ready"
    RETIRED = "retired"


class GoalOutcome(StrEnum):
    """How a wait stands."""

    REACHED = "reached"
    FAILED = "failed for good"
    PENDING = "pending"


@dataclass(frozen=True)
class VersionState:
    """A version's status.

    Attributes:
        word: as its tag has it, one of `Status`.
        deployed: whether the system still has it, running or not.
    """

    version: str
    word: str
    message: str = ""
    deployed: bool = False

    def __str__(self) -> str:
        told = f": {self.message}" if self.message else ""
        return f"version {self.version} is {self.word}{told}"


@dataclass(frozen=True)
class Judgement:
    """How far it is, and why."""

    outcome: GoalOutcome
    reason: str


def judge(goal: Goal, states: Iterable[VersionState], version: str | None) -> Judgement:
    """How far a model, or one version of it, is from a goal; `states` are all of the model."""
    seen = [each for each in states if version in (None, each.version)]
    if goal is Goal.RETIRED:
        return _retired(seen)
    if not seen:
        what = "the model" if version is None else f"version {version}"
        return Judgement(GoalOutcome.PENDING, f"nobody asked for {what} yet")
    good = {Status.SERVING} if goal is Goal.SERVING else {Status.SERVING, Status.READY}
    return _model(good, seen) if version is None else _version(good, seen[0])


def is_over(now: Judgement, first: Judgement, waited_s: float) -> bool:
    """Whether there is nothing to wait for any more; `first` is what the first look came to."""
    if now.outcome is GoalOutcome.FAILED and now == first:
        return waited_s >= SETTLE_S
    return now.outcome is not GoalOutcome.PENDING


def _retired(seen: Sequence[VersionState]) -> Judgement:
    left = [each for each in seen if each.deployed or each.word not in _RUNS_NO_MORE]
    if left:
        return Judgement(GoalOutcome.PENDING, _sentence(left))
    return Judgement(GoalOutcome.REACHED, "nothing of it is deployed")


def _version(good: set[Status], state: VersionState) -> Judgement:
    if state.word in good:
        return Judgement(GoalOutcome.REACHED, str(state))
    hopeless = state.word in (Status.INVALID, Status.SUPERSEDED)
    return Judgement(GoalOutcome.FAILED if hopeless else GoalOutcome.PENDING, str(state))


def _model(good: set[Status], seen: Sequence[VersionState]) -> Judgement:
    """Of a model, what is on its way decides; then what could not be served; then what serves.

    A version that is invalid and was never deployed, such as one with a role that does not exist,
    is beside the point while another one serves.
    """
    served = [each for each in seen if each.word in good]
    coming = [each for each in seen if each.word in _ON_ITS_WAY and each not in served]
    if coming:
        return Judgement(GoalOutcome.PENDING, _sentence(coming))
    invalid = [each for each in seen if each.word == Status.INVALID]
    failed = [each for each in invalid if each.deployed or not served]
    if failed:
        return Judgement(GoalOutcome.FAILED, _sentence(failed))
    if served:
        return Judgement(GoalOutcome.REACHED, _sentence(served))
    return Judgement(GoalOutcome.PENDING, _sentence(seen))


def _sentence(states: Iterable[VersionState]) -> str:
    return "; ".join(str(each) for each in states)

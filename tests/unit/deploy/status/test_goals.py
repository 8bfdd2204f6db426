"""How far a model is from what `penstock wait` waits for."""

from __future__ import annotations

import pytest

from penstock.deploy.local.status.goals import (
    SETTLE_S,
    Goal,
    GoalOutcome,
    Judgement,
    VersionState,
    is_over,
    judge,
)
from penstock.registry_sync.sources.types import Status

REACHED, FAILED, PENDING = GoalOutcome.REACHED, GoalOutcome.FAILED, GoalOutcome.PENDING


def at(version: str, word: str, message: str = "", *, deployed: bool = True) -> VersionState:
    return VersionState(version, word, message, deployed)


NOT_DEPLOYED = {"retired", "withdrawn", "superseded"}
WORDS = tuple(Status)


@pytest.mark.parametrize(
    ("goal", "reached", "failed"),
    [
        (Goal.SERVING, {"serving"}, {"invalid", "superseded"}),
        (Goal.READY, {"serving", "ready"}, {"invalid", "superseded"}),
        (Goal.RETIRED, NOT_DEPLOYED, set()),
    ],
)
def test_every_word_of_a_version_means_one_thing_for_a_goal(
    goal: Goal, reached: set[str], failed: set[str]
) -> None:
    for word in WORDS:
        state = at("5", word, "because", deployed=word not in NOT_DEPLOYED)
        expected = REACHED if word in reached else FAILED if word in failed else PENDING
        others = [at("4", "serving"), at("6", "invalid")]
        assert judge(goal, [*others, state], "5").outcome is expected, word


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], PENDING),
        ([at("4", "serving")], REACHED),
        ([at("4", "serving"), at("5", "loading")], PENDING),
        ([at("4", "serving"), at("5", "failed")], PENDING),  # it is tried again
        ([at("4", "serving"), at("5", "invalid")], FAILED),
        ([at("4", "serving"), at("2", "invalid", deployed=False)], REACHED),  # a role's typo
        ([at("2", "invalid", deployed=False)], FAILED),
        ([at("4", "superseded", deployed=False), at("5", "serving")], REACHED),
        ([at("4", "draining")], PENDING),
        ([at("4", "retired", deployed=False)], PENDING),
    ],
)
def test_a_model_serves_once_what_is_on_its_way_has_come(
    states: list[VersionState], expected: GoalOutcome
) -> None:
    assert judge(Goal.SERVING, states, None).outcome is expected


def test_a_model_of_which_nothing_is_left_is_retired() -> None:
    assert judge(Goal.RETIRED, [], None).outcome is REACHED
    assert judge(Goal.RETIRED, [at("4", "draining")], None).outcome is PENDING
    fetching = at("4", "loading", deployed=False)
    assert judge(Goal.RETIRED, [fetching], None).outcome is PENDING


def test_the_reason_is_the_statuss_own_words() -> None:
    states = [at("5", "invalid", "output 'y' has no rows")]
    assert judge(Goal.SERVING, states, "5").reason == (
        "version 5 is invalid: output 'y' has no rows"
    )


def test_a_failure_from_before_the_wait_must_stand_and_a_new_one_counts_at_once() -> None:
    stale, fresh = Judgement(FAILED, "bad tag"), Judgement(FAILED, "another")
    assert not is_over(stale, stale, SETTLE_S - 0.1)
    assert is_over(stale, stale, SETTLE_S)
    assert is_over(fresh, stale, 0.5)
    assert not is_over(Judgement(PENDING, ""), stale, 2 * SETTLE_S)
    assert is_over(Judgement(REACHED, ""), stale, 0.0)

"""How a worker leaves: the whole table, and what holds whatever comes, late or twice."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.worker.agent.lifecycle import STAGES, Milestone, Stage
from penstock.worker.transitions import IllegalTransitionError, after

ORDER = list(Stage)
ILLEGAL = {
    (Stage.RUN, Milestone.HANDED_OVER),
    (Stage.RUN, Milestone.DRAINED),
    (Stage.HANDOVER, Milestone.DRAINED),
}


@pytest.mark.parametrize(("stage", "milestone"), list(product(Stage, Milestone)))
def test_nothing_is_handed_over_or_drained_before_it_was_to_be(
    stage: Stage, milestone: Milestone
) -> None:
    if (stage, milestone) not in ILLEGAL:
        assert after(STAGES, stage, milestone) in Stage
        return
    with pytest.raises(IllegalTransitionError, match=f"^{milestone.name} in state {stage.name}$"):
        after(STAGES, stage, milestone)


@given(st.lists(st.sampled_from(Milestone)))
def test_a_worker_never_turns_back_and_leaves_at_the_second_stop(
    milestones: list[Milestone],
) -> None:
    stage, stops = Stage.RUN, 0
    for milestone in milestones:
        if (stage, milestone) in ILLEGAL:
            continue
        before, stage = stage, after(STAGES, stage, milestone)
        stops += milestone is Milestone.STOP
        assert ORDER.index(stage) >= ORDER.index(before)
        assert (stage is Stage.RUN) == (stops == 0)
        assert stage is Stage.LEAVE or stops < 2

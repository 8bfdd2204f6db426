"""What a desk knows of the queue: the whole table, and what holds whatever happens."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.worker.jobs.desk_states import QUEUE_STATES, QueueEvent, QueueState
from penstock.worker.transitions import IllegalTransitionError, after

S, E = QueueState, QueueEvent
ASKED = (S.ASKED, S.ASKED_HINTED)
LOOKS = (S.LOOK, S.LOOK_ALONE)
ANSWERS = (E.NO_MORE, E.MORE, E.SUSPECTS)


@pytest.mark.parametrize(("state", "event"), list(product(S, E)))
def test_answers_come_to_questions_and_questions_where_there_may_be_jobs(
    state: QueueState, event: QueueEvent
) -> None:
    legal = {E.PULL: state in LOOKS} | dict.fromkeys(ANSWERS, state in ASKED)
    if legal.get(event, True):
        assert after(QUEUE_STATES, state, event) in S
        return
    with pytest.raises(IllegalTransitionError, match=rf"^{event.name} in state {state.name}$"):
        after(QUEUE_STATES, state, event)


@given(st.lists(st.sampled_from(E)))
def test_the_queue_is_empty_only_by_an_answer_that_no_hint_overtook(
    events: list[QueueEvent],
) -> None:
    state, hinted, asked = S.LOOK, True, False
    for event in events:
        if event not in QUEUE_STATES[state]:
            continue
        state = after(QUEUE_STATES, state, event)
        if event is E.PULL:
            hinted, asked = False, True
        elif event in ANSWERS:
            hinted, asked = hinted or event is not E.NO_MORE, False
        elif event is E.PORT_LOST:
            hinted, asked = True, False
        elif event is E.HINT or not asked:
            hinted = True
        assert (state in ASKED) == asked
        assert asked or (state in LOOKS) == hinted
        assert (state is S.ASKED_HINTED) == (asked and hinted)

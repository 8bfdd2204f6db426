"""What may happen to a call in which state, and what the table of that promises."""

from __future__ import annotations

import pytest

from penstock.gateway.dispatch.call_state import (
    TRANSITIONS,
    CallEvent,
    CallState,
    IllegalTransitionError,
    after,
)

EACH = [(state, event) for state in CallState for event in CallEvent]


def reached(start: CallState) -> set[CallState]:
    """All states that events may lead to."""
    found, left = set[CallState](), [start]
    while left:
        for state in TRANSITIONS[left.pop()].values():
            if state not in found:
                found.add(state)
                left.append(state)
    return found


@pytest.mark.parametrize(("state", "event"), EACH)
def test_what_is_not_in_the_table_is_refused_and_named(state: CallState, event: CallEvent) -> None:
    allowed = TRANSITIONS[state]
    if event in allowed:
        assert after(state, event) is allowed[event]
        return
    with pytest.raises(IllegalTransitionError) as refusal:
        after(state, event)
    would_be = {each[event] for each in TRANSITIONS.values() if event in each}
    assert f"is {state} cannot {event}" in str(refusal.value)
    assert all(each in str(refusal.value) for each in would_be)


def test_every_state_is_reached_and_leads_to_the_end() -> None:
    assert reached(CallState.UNPLACED) == set(CallState)
    for state in set(CallState) - {CallState.CLOSED}:
        assert CallState.CLOSED in reached(state)


def test_the_end_is_the_end() -> None:
    assert [state for state in CallState if not TRANSITIONS[state]] == [CallState.CLOSED]


def test_of_an_answer_that_began_nothing_leads_back() -> None:
    ends = {CallState.STREAMING, CallState.SPENT, CallState.CLOSED}
    assert reached(CallState.STREAMING) == ends


def test_what_is_in_flight_ends_before_its_call_is_closed() -> None:
    closed_from = {state for state in CallState if CallEvent.CLOSE in TRANSITIONS[state]}
    assert closed_from == {CallState.UNPLACED, CallState.SPENT}

"""State machines as tables: what may happen in each state, and where it leads. Pure.

One state, and not several booleans of which most combinations mean nothing. A table is read, and
tested, whole. What may come late, or twice, stands in it and leads back to the same state; all else
is a mistake of ours, and says so at once, rather than as something odd much later.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeAlias, TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)

Transitions: TypeAlias = Mapping[State, Mapping[Event, State]]


class IllegalTransitionError(Exception):
    """Something happened in a state in which it cannot."""


def after(transitions: Transitions[State, Event], state: State, event: Event) -> State:
    """The state that an event leads to.

    Raises:
        IllegalTransitionError: naming both, if the table does not have it.
    """
    try:
        return transitions[state][event]
    except KeyError:
        raise IllegalTransitionError(f"{event.name} in state {state.name}") from None

"""The states of an open call, and what may happen in which: all that moves one is in this table.

                    +---------- PARK ----------+
                    v                          |
    (accepted) -> UNPLACED <--UNPARK--      PARKED <-+
                  |  ^  |                      |     | PARK
             SEND |  |  | CLOSE                +-----+
                  v  |  v
        +----> IN_FLIGHT   CLOSED <--CLOSE-- SPENT
    END |       |    |                         ^
        |  HEDGE|    | STREAM                  | END
        +-- RACING   +-----------------> STREAMING <-> STREAM

UNPLACED: no replica has the call, and it waits for nothing. It was accepted just now, or an attempt
of it ended, or it was taken out of those that are parked. Whoever brings a call here goes on to
send, park or close it before `Dispatch` returns: nothing would ever look at it again. So attempts
end before a call is closed, and a call leaves the parked ones before it is sent or closed; there is
one way to each of these states, and one place in the code for each event.

PARKED: no replica can take the call now, or it waits before its next retry. It may be tried again
in vain, so PARK leads back here.

IN_FLIGHT: one replica has it. That the attempt ended does not say that the call is over (it may
have been refused, or lost), so END leads back to UNPLACED, even where an answer is what ended it.

RACING: two replicas have it. There is no third: HEDGE is for IN_FLIGHT alone. The end of either
attempt leaves the other, be that the hedge or the first one. An answer that begins in one of them
ends the other before it is passed on, so STREAM is not for calls that race.

STREAMING: the caller has a part of the answer. A second attempt could give another answer, of which
the caller would get the rest; so no hedge is sent beside it, and when the attempt ends, well or
not, the call is SPENT.

SPENT: it can only be closed, by the end of the answer or by an error.

CLOSED: the caller has its one answer or error, or cancelled. Nothing leads out of it, which is how
"exactly once" is held.

What is true of a call in several of these states is no state: that it is a suspect, when it has to
be looked at, how often it was tried. `penstock.gateway.dispatch.attempts` has fields for those.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class CallState(StrEnum):
    """See the module's docstring."""

    UNPLACED = "unplaced"
    PARKED = "parked"
    IN_FLIGHT = "in flight"
    RACING = "racing"
    STREAMING = "streaming"
    SPENT = "spent"
    CLOSED = "closed"


class CallEvent(StrEnum):
    """What moves a call; the comments say who lets it happen."""

    SEND = "send"  # `InFlight.begin`
    HEDGE = "hedge"  # `InFlight.begin`, beside another attempt
    END = "end"  # `InFlight.end`: one attempt is over
    STREAM = "stream"  # `Dispatch.chunk`
    PARK = "park"  # `Parked.add`
    UNPARK = "unpark"  # `Parked.remove`
    CLOSE = "close"  # `Dispatch._close`


TRANSITIONS: Final[dict[CallState, dict[CallEvent, CallState]]] = {
    CallState.UNPLACED: {
        CallEvent.SEND: CallState.IN_FLIGHT,
        CallEvent.PARK: CallState.PARKED,
        CallEvent.CLOSE: CallState.CLOSED,
    },
    CallState.PARKED: {
        CallEvent.PARK: CallState.PARKED,
        CallEvent.UNPARK: CallState.UNPLACED,
    },
    CallState.IN_FLIGHT: {
        CallEvent.HEDGE: CallState.RACING,
        CallEvent.STREAM: CallState.STREAMING,
        CallEvent.END: CallState.UNPLACED,
    },
    CallState.RACING: {CallEvent.END: CallState.IN_FLIGHT},
    CallState.STREAMING: {
        CallEvent.STREAM: CallState.STREAMING,
        CallEvent.END: CallState.SPENT,
    },
    CallState.SPENT: {CallEvent.CLOSE: CallState.CLOSED},
    CallState.CLOSED: {},
}


class IllegalTransitionError(Exception):
    """An event that cannot happen to a call in its state: an error of dispatch, not of a peer."""

    def __init__(self, state: CallState, event: CallEvent) -> None:
        targets = {after[event] for after in TRANSITIONS.values() if event in after}
        would_be = " or ".join(sorted(targets))
        super().__init__(f"a call that is {state} cannot {event}, to be {would_be}")


def after(state: CallState, event: CallEvent) -> CallState:
    """The state after an event.

    Raises:
        IllegalTransitionError: if the event cannot happen in that state.
    """
    found = TRANSITIONS[state].get(event)
    if found is None:
        raise IllegalTransitionError(state, event)
    return found

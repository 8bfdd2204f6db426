"""What a replica's desk knows of the job store's queue, as a table. Pure.

    EMPTY --hint--> LOOK --pull--> ASKED --more--> LOOK
                                   ASKED --no more--> EMPTY

Nobody polls, so no hint may be forgotten: one that comes in ASKED may be about what the request
just missed, and has the desk look again whatever the answer is (ASKED_HINTED). Where suspects were
passed over, the desk looks once it holds nothing (LOOK_ALONE), and no hint changes that.

Members are integers, since those are looked up in a table the sooner.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Final


class QueueState(IntEnum):
    """What is known of the queue."""

    EMPTY = auto()  # there was nothing in it
    LOOK = auto()  # there may be something in it
    LOOK_ALONE = auto()  # there may be suspects in it, which want a replica that holds nothing
    ASKED = auto()  # the port was asked, and did not answer yet
    ASKED_HINTED = auto()  # the same, and there was a hint since


class QueueEvent(IntEnum):
    """What the desk does and hears."""

    PULL = auto()  # it asks
    HINT = auto()
    NO_MORE = auto()  # the answer: that was all
    MORE = auto()  # the answer: there may be more
    SUSPECTS = auto()  # the answer: suspects were passed over
    KEPT_OFF = auto()  # a suspect that was leased was refused, and returns to the queue
    PORT_LOST = auto()  # no answer comes any more


QUEUE_STATES: Final[Mapping[QueueState, Mapping[QueueEvent, QueueState]]] = {
    QueueState.EMPTY: {
        QueueEvent.HINT: QueueState.LOOK,
        QueueEvent.KEPT_OFF: QueueState.LOOK_ALONE,
        QueueEvent.PORT_LOST: QueueState.LOOK,
    },
    QueueState.LOOK: {
        QueueEvent.PULL: QueueState.ASKED,
        QueueEvent.HINT: QueueState.LOOK,
        QueueEvent.KEPT_OFF: QueueState.LOOK_ALONE,
        QueueEvent.PORT_LOST: QueueState.LOOK,
    },
    QueueState.LOOK_ALONE: {
        QueueEvent.PULL: QueueState.ASKED,
        QueueEvent.HINT: QueueState.LOOK_ALONE,
        QueueEvent.KEPT_OFF: QueueState.LOOK_ALONE,
        QueueEvent.PORT_LOST: QueueState.LOOK_ALONE,
    },
    QueueState.ASKED: {
        QueueEvent.HINT: QueueState.ASKED_HINTED,
        QueueEvent.NO_MORE: QueueState.EMPTY,
        QueueEvent.MORE: QueueState.LOOK,
        QueueEvent.SUSPECTS: QueueState.LOOK_ALONE,
        QueueEvent.KEPT_OFF: QueueState.ASKED,  # its return wakes the port up
        QueueEvent.PORT_LOST: QueueState.LOOK,
    },
    QueueState.ASKED_HINTED: {
        QueueEvent.HINT: QueueState.ASKED_HINTED,
        QueueEvent.NO_MORE: QueueState.LOOK,
        QueueEvent.MORE: QueueState.LOOK,
        QueueEvent.SUSPECTS: QueueState.LOOK_ALONE,
        QueueEvent.KEPT_OFF: QueueState.ASKED_HINTED,
        QueueEvent.PORT_LOST: QueueState.LOOK,
    },
}

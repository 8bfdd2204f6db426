"""What a worker does when it is to leave, in which order. Pure.

    RUN --stop--> HANDOVER --handed over--> DRAIN --drained--> LEAVE

In HANDOVER everything still serves, so that others can take it over first; it ends when they have,
when there are none, or when that takes too long. In DRAIN replicas finish what they accepted. A
second stop leaves at once, from either.

Handing over and draining are ended by timers too, which nobody cancels: they may come late, and
then mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class Stage(Enum):
    """How far a worker is on its way out."""

    RUN = auto()
    HANDOVER = auto()
    DRAIN = auto()
    LEAVE = auto()


class Milestone(Enum):
    """What moves it on."""

    STOP = auto()  # SIGTERM or SIGINT
    HANDED_OVER = auto()  # nothing serves here any more, or nobody is going to take it over
    DRAINED = auto()  # nothing runs any more, or for too long


STAGES: Final[Mapping[Stage, Mapping[Milestone, Stage]]] = {
    Stage.RUN: {Milestone.STOP: Stage.HANDOVER},
    Stage.HANDOVER: {Milestone.STOP: Stage.LEAVE, Milestone.HANDED_OVER: Stage.DRAIN},
    Stage.DRAIN: {
        Milestone.STOP: Stage.LEAVE,
        Milestone.HANDED_OVER: Stage.DRAIN,
        Milestone.DRAINED: Stage.LEAVE,
    },
    Stage.LEAVE: dict.fromkeys(Milestone, Stage.LEAVE),
}

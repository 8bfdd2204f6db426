"""A slot: one place of the placement, and the one record of all that happens there. Pure.

Only `penstock.worker.agent.supervisor` changes slots; everything that may happen to one is told
there.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from penstock.shared.contracts.deployment import ReplicaReport, ReplicaState
from penstock.shared.contracts.ids import ReplicaId
from penstock.worker.agent.events import Patience
from penstock.worker.agent.wanted import Assignment

NEVER = math.inf


class Step(enum.Enum):
    """Where a slot is; see the table in `penstock.worker.agent.supervisor`."""

    FETCH_QUEUED = enum.auto()
    FETCHING = enum.auto()
    LOAD_QUEUED = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    DRAINING = enum.auto()
    TERMINATING = enum.auto()
    KILLED = enum.auto()
    BACKOFF = enum.auto()
    GIVEN_UP = enum.auto()


ENDING = frozenset({Step.DRAINING, Step.TERMINATING, Step.KILLED})

_REPORTED = {
    Step.FETCH_QUEUED: ReplicaState.FETCHING,
    Step.FETCHING: ReplicaState.FETCHING,
    Step.LOAD_QUEUED: ReplicaState.LOADING,
    Step.LOADING: ReplicaState.LOADING,
    Step.READY: ReplicaState.READY,
    Step.DRAINING: ReplicaState.DRAINING,
    Step.TERMINATING: ReplicaState.BACKOFF,
    Step.KILLED: ReplicaState.BACKOFF,
    Step.BACKOFF: ReplicaState.BACKOFF,
}
"""What is reported of a slot that neither leaves nor has a verdict."""


@dataclass
class Life:
    """One process in a slot.

    Attributes:
        ready_at: None while it has never been ready.
        note: what the operator may want to know of the model.
        patience: how long to wait for its next word, since its last one.
        replace: it ends to make room for the next one, without fault.
    """

    replica: ReplicaId
    device: str
    pid: int | None = None
    provider: str = ""
    note: str = ""
    ready_at: float | None = None
    queued_rows: int = 0
    executing_rows: int = 0
    patience: Patience | None = None
    replace: bool = False


@dataclass
class Slot:
    """One place; `deadline` is when the step is overdue, `crashes` counts those in a row."""

    assignment: Assignment
    step: Step = Step.FETCH_QUEUED
    deadline: float = NEVER
    ticket: int = 0
    path: str | None = None
    life: Life | None = None
    leaving: bool = False
    successor: Assignment | None = None
    verdict: ReplicaState | None = None
    message: str = ""
    crashes: int = 0
    load_crashes: int = 0
    fetch_failures: int = 0
    restarts: int = 0

    @property
    def state(self) -> ReplicaState:
        """What is reported."""
        if self.leaving:
            return ReplicaState.DRAINING
        return self.verdict or _REPORTED[self.step]

    def outdated_by(self, assignment: Assignment) -> bool:
        """Whether what is placed here now asks to begin anew."""
        if not assignment.same_replica(self.assignment):
            return True
        return self.verdict is not None and assignment.attempt != self.assignment.attempt

    def report(self) -> ReplicaReport:
        """This slot, for the control plane."""
        life = self.life or Life(replica="", device=self.assignment.device)
        return ReplicaReport(
            key=self.assignment.key,
            replica=life.replica,
            model=self.assignment.model,
            version=self.assignment.version,
            revision=self.assignment.revision,
            state=self.state,
            device=life.device,
            duty=self.assignment.duty,
            pid=life.pid,
            provider=life.provider,
            queued_rows=life.queued_rows,
            executing_rows=life.executing_rows,
            restarts=self.restarts,
            message=self.message,
            note=life.note,
        )

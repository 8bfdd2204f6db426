"""What the agent tells the supervisor, and what the supervisor has it do.

A `ticket` names one fetch, a `replica` one life of a process. Events about a fetch or a life that
is over are ignored, so that the agent may deliver them late.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from penstock.shared.contracts.ids import ReplicaId
from penstock.worker.agent.wanted import Assignment


class KillReason(StrEnum):
    """Why a process had to be killed."""

    EXECUTION_TIMEOUT = "execution_timeout"  # its batch took longer than the operator allows
    JOB_CANCELED = "job_canceled"  # nobody wants its batch any more; it ended by itself for that
    HUNG = "hung"  # it was silent for too long, or nobody waits for its batch any more
    LOAD_TIMEOUT = "load_timeout"  # it was not ready in time
    NOT_ENDED = "not_ended"  # it was to end, and did not


# Events


@dataclass(frozen=True)
class Placed:
    """All that this worker is to run. Not sent while the deployment cannot be read."""

    assignments: tuple[Assignment, ...]


@dataclass(frozen=True)
class Fetched:
    """The artifacts are in the cache, verified, at `path`."""

    key: str
    ticket: int
    path: str


@dataclass(frozen=True)
class FetchFailed:
    """The artifacts cannot be had; `retryable` if they may be later."""

    key: str
    ticket: int
    message: str
    retryable: bool


@dataclass(frozen=True)
class Spawned:
    """The process of a `Spawn` exists, on a device that is resolved."""

    key: str
    replica: ReplicaId
    pid: int
    device: str


@dataclass(frozen=True)
class ReplicaReady:
    """A replica is ready; `provider` executes it in truth.

    Attributes:
        note: what the operator may want to know of the model.
    """

    key: str
    replica: ReplicaId
    provider: str
    note: str = ""


@dataclass(frozen=True)
class Noted:
    """A replica that is ready found out something that the operator may want to know."""

    key: str
    replica: ReplicaId
    note: str


@dataclass(frozen=True)
class LoadRefused:
    """A replica says that its model cannot be loaded, and will end; `invalid`: not ever."""

    key: str
    replica: ReplicaId
    message: str
    invalid: bool


@dataclass(frozen=True)
class ReplicaBeat:
    """A replica's loop turns; rows that wait and run in it.

    Attributes:
        batch_ends_in_s: how long what runs may go on still; None: nothing that is known of.
    """

    key: str
    replica: ReplicaId
    queued_rows: int
    executing_rows: int
    batch_ends_in_s: float | None = None


@dataclass(frozen=True)
class Finished:
    """A replica answered all it had accepted, and will end.

    Attributes:
        replace: unasked, to stop an execution that nobody wants: another is to take its place.
    """

    key: str
    replica: ReplicaId
    replace: bool = False


@dataclass(frozen=True)
class ReplicaEnded:
    """A replica's process is gone, or could not be spawned.

    Attributes:
        how: for the operator.
        begun: ids of the jobs that it began last; None: not known.
    """

    key: str
    replica: ReplicaId
    how: str
    begun: Collection[str] | None = None


@dataclass(frozen=True)
class Tick:
    """Time passed; due at `Supervisor.next_deadline()`."""


@dataclass(frozen=True)
class Shutdown:
    """The worker leaves: everything is to be drained, and nothing is taken on any more."""


LifeEvent = Spawned | ReplicaReady | Noted | LoadRefused | ReplicaBeat | Finished | ReplicaEnded
"""Of one life of a replica."""

Event = Placed | Fetched | FetchFailed | LifeEvent | Tick | Shutdown


# Commands


@dataclass(frozen=True)
class Fetch:
    """Get the artifacts; answer with Fetched or FetchFailed."""

    ticket: int
    assignment: Assignment


@dataclass(frozen=True)
class CancelFetch:
    """A fetch is not wanted any more; no answer is needed."""

    ticket: int


@dataclass(frozen=True)
class Spawn:
    """Start a process; answer with Spawned, or with ReplicaEnded if it could not be started.

    Attributes:
        path: where the artifacts are.
        restart: an earlier life of this replica ended unasked.
    """

    replica: ReplicaId
    assignment: Assignment
    path: str
    restart: bool


@dataclass(frozen=True)
class DrainReplica:
    """Tell a replica to finish what it accepted, and to end."""

    replica: ReplicaId


@dataclass(frozen=True)
class Terminate:
    """Ask a process to end (SIGTERM)."""

    replica: ReplicaId


@dataclass(frozen=True)
class Kill:
    """End a process and all that it started (SIGKILL)."""

    replica: ReplicaId
    reason: KillReason


@dataclass(frozen=True)
class Lose:
    """Report that a replica died unasked: what it had leased is to run elsewhere.

    Attributes:
        begun: ids of the jobs that it may have died of; None: any that it had leased.
    """

    replica: ReplicaId
    begun: Collection[str] | None = None


Command = Fetch | CancelFetch | Spawn | DrainReplica | Terminate | Kill | Lose


@dataclass(frozen=True)
class Patience:
    """How long a ready replica may go on without another word, and why not for longer."""

    seconds: float
    reason: KillReason
    message: str


@dataclass(frozen=True)
class SupervisionLimits:
    """Limits of supervision.

    Attributes:
        parallel_loads: replicas that are fetched, and that are loaded, at a time.
        fetch_timeout_s: longest fetch before it is tried again.
        load_timeout_s: longest load before it has failed.
        hung_after_s: longest silence of a ready replica before it is killed.
        heartbeat_interval_s: how often replicas speak.
        overrun_slack_s: how much later than it must have ended a batch is given up: the end may be
            under way to us, on a machine that is busy.
        silence_s_min: shorter silence kills nobody, whatever the execution timeout: gateways have
            stopped routing by then, and what stops a whole machine for a moment must not end all.
        drain_grace_s: longest wait for a replica to finish its work.
        drain_timeout_s_max: longest such wait that a model's operator may have set instead.
        end_grace_s: longest wait for a process to end when it said that it will, or was asked by
            SIGTERM; then harder means follow.
        backoff_s: delay before the second restart in a row; it doubles from there. The first is
            immediate: most crashes are single, and capacity is missing meanwhile.
        backoff_s_max: longest delay between restarts.
        healthy_after_s: a replica that was ready this long starts with a clean record.
        load_crashes_max: processes that may die while loading before the load has failed.
        fetch_failures_max: fetches in a row that may fail before the load of an unrouted revision
            has failed; a routed one has nothing better to do than to go on trying.
    """

    parallel_loads: int = 2
    fetch_timeout_s: float = 1800.0
    load_timeout_s: float = 600.0
    hung_after_s: float = 30.0
    heartbeat_interval_s: float = 0.5
    overrun_slack_s: float = 0.5
    silence_s_min: float = 2.0
    drain_grace_s: float = 30.0
    drain_timeout_s_max: float = 86_400.0
    end_grace_s: float = 5.0
    backoff_s: float = 0.5
    backoff_s_max: float = 30.0
    healthy_after_s: float = 60.0
    load_crashes_max: int = 2
    fetch_failures_max: int = 5

    def drain_s(self, drain_timeout_s: float | None) -> float:
        """Longest wait for a replica to finish its work, if its operator allows so much for it."""
        return max(self.drain_grace_s, min(drain_timeout_s or 0.0, self.drain_timeout_s_max))

    def restart_delay_s(self, crashes: int) -> float:
        """Delay after so many crashes in a row (at least one)."""
        if crashes <= 1:
            return 0.0
        doublings = min(crashes - 2, 32)
        return min(self.backoff_s_max, self.backoff_s * 2.0**doublings)

    def patience(
        self, batch_ends_in_s: float | None, execution_timeout_s: float | None
    ) -> Patience:
        """How long to wait for a ready replica that said just now what runs in it.

        Args:
            execution_timeout_s: longest execution, if the operator set one.
        """
        silence = f"hung: silent for {self.hung_after_s:g} s"
        silent = Patience(self.hung_after_s, KillReason.HUNG, silence)
        overrun = self._overrun(batch_ends_in_s, execution_timeout_s)
        return silent if overrun is None or overrun.seconds > silent.seconds else overrun

    def _overrun(
        self, batch_ends_in_s: float | None, execution_timeout_s: float | None
    ) -> Patience | None:
        """How long until a batch has gone on for too long; None: no such limit."""
        if execution_timeout_s is not None:
            message = f"a batch ran for longer than its {execution_timeout_s:g} s"
            if batch_ends_in_s is None:
                # One that holds the interpreter cannot be told of. It began before the next
                # heartbeat was due, or that would have come first.
                unseen_s = self.heartbeat_interval_s + execution_timeout_s + self.overrun_slack_s
                seconds = max(unseen_s, self.silence_s_min)
            else:
                seconds = batch_ends_in_s + self.overrun_slack_s
            return Patience(seconds, KillReason.EXECUTION_TIMEOUT, message)
        if batch_ends_in_s is None:
            return None
        message = "hung: its batch went on for longer than anybody waits, or than its job may take"
        return Patience(batch_ends_in_s + self.overrun_slack_s, KillReason.HUNG, message)

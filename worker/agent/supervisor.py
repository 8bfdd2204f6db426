"""Which replica processes of a worker run, and what happens when one misbehaves. Pure.

Theory. A *slot* (`penstock.worker.agent.slot`) is one place of the placement, named by its key, and
the one record of all that happens there. At most one process lives in a slot. Its steps, and what
ends each:

    step          waits for                     else, at its deadline
    FETCH_QUEUED  a place among the fetches
    FETCHING      the artifacts                 give the fetch up, BACKOFF
    LOAD_QUEUED   a place among the loads
    LOADING       the replica to be ready       KILLED, then GIVEN_UP
    READY         (serves; each heartbeat       KILLED, then BACKOFF
                  moves the deadline, which
                  `SupervisionLimits.patience` tells)
    DRAINING      the process to end by itself  TERMINATING
    TERMINATING   the process to end (SIGTERM)  KILLED
    KILLED        the process to end (SIGKILL)
    BACKOFF                                     FETCH_QUEUED, or LOAD_QUEUED with artifacts
    GIVEN_UP      registry_sync to place it anew

When a process has ended, what follows depends on why it was to end, never on how it ended: a slot
that is `leaving` makes room (for its `successor`, if it was placed anew meanwhile), one with a
`verdict` is given up, one that made room for the next one has it loaded at once, any other starts
again after a delay.

Invariants:
- A process is spawned only into a slot without one, for a placement that still stands.
- Every process that was spawned is, once unwanted, drained or terminated, and then killed: each of
  these steps has a deadline, and only the report of its end frees the slot.
- What failed to load is not tried again by us: registry_sync decides that, by a new placement or a
  new attempt number. What crashed is, for ever, with a bounded delay.
- Routed revisions are fetched and loaded before others, and at most `parallel_loads` of them at a
  time. Others take what room is left and never delay a routed one.
- A replica that served and ended unasked is told of (`Lose`), once, when its process is gone: its
  jobs may have killed it. One that leaves is not: to be overdue in a drain condemns no job.
- Our own pauses kill nobody: time during which the agent itself did not run counts for no deadline,
  and a replica that serves is judged at a Tick only, when what it said meanwhile has been read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from penstock.shared.contracts.deployment import ReplicaReport, ReplicaState
from penstock.worker.agent.events import (
    CancelFetch,
    Command,
    DrainReplica,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    Finished,
    Kill,
    KillReason,
    LifeEvent,
    LoadRefused,
    Lose,
    Noted,
    Placed,
    ReplicaBeat,
    ReplicaEnded,
    ReplicaReady,
    Shutdown,
    Spawn,
    Spawned,
    SupervisionLimits,
    Terminate,
    Tick,
)
from penstock.worker.agent.slot import ENDING, NEVER, Life, Slot, Step
from penstock.worker.agent.wanted import Assignment

TICK_S = 1.0
"""Longest time between events that an agent which runs lets pass."""

PAUSE_S = 5.0
"""A longer time between events means that the agent did not run."""


class Supervisor:
    """Decides for one worker.

    Args:
        incarnation: this life of the worker; names of its replicas begin with it.
        limits: how long it waits, and for how much at a time.
    """

    def __init__(self, incarnation: str, limits: SupervisionLimits) -> None:
        self._incarnation = incarnation
        self._limits = limits
        self._slots: dict[str, Slot] = {}
        self._closing = False
        self._serial = 0
        self._now: float | None = None
        self._commands: list[Command] = []
        self.transitions = 0
        """Grows with every change of a report but those of its row counts."""

    def __repr__(self) -> str:
        slots = ", ".join(f"{key}: {slot.step.name}" for key, slot in self._slots.items())
        return f"<Supervisor {'closing ' if self._closing else ''}{{{slots}}}>"

    @property
    def idle(self) -> bool:
        """Whether nothing runs, and nothing is to run."""
        return not self._slots

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in an event at `now` (monotonic seconds); what is to be done, in this order."""
        self._forgive_pause(now)
        match event:
            case Placed():
                self._placed(event.assignments, now)
            case Fetched() | FetchFailed():
                self._fetch_over(event, now)
            case Shutdown():
                self._closing = True
                for slot in list(self._slots.values()):
                    self._leave(slot, None, now)
            case Tick():
                pass
            case _:
                self._lived(event, now)
        for slot in list(self._slots.values()):
            unheard = slot.step is Step.READY and not isinstance(event, Tick)
            if now >= slot.deadline and not unheard:
                self._overdue(slot, now)
        self._admit(Step.FETCH_QUEUED, Step.FETCHING, self._fetch, now)
        self._admit(Step.LOAD_QUEUED, Step.LOADING, self._spawn, now)
        commands, self._commands = self._commands, []
        return commands

    def next_deadline(self) -> float | None:
        """When a Tick is due at the latest; None: not before another event."""
        earliest = min((slot.deadline for slot in self._slots.values()), default=NEVER)
        if earliest == NEVER or self._now is None:
            return None
        return min(earliest, self._now + TICK_S)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """All slots, for the control plane."""
        return tuple(slot.report() for slot in self._slots.values())

    def devices_in_use(self) -> list[str]:
        """The device of each process that lives."""
        return [slot.life.device for slot in self._slots.values() if slot.life is not None]

    # Placement

    def _placed(self, assignments: Iterable[Assignment], now: float) -> None:
        if self._closing:
            return
        wanted = {assignment.key: assignment for assignment in assignments}
        for slot in list(self._slots.values()):
            self._adjust(slot, wanted.pop(slot.assignment.key, None), now)
        for assignment in wanted.values():
            self._occupy(assignment)

    def _adjust(self, slot: Slot, assignment: Assignment | None, now: float) -> None:
        """Bring a slot in line with what is placed there now, if anything."""
        if slot.leaving:
            slot.successor = assignment
        elif assignment is None or slot.outdated_by(assignment):
            self._leave(slot, assignment, now)
        else:
            slot.assignment = assignment

    def _occupy(self, assignment: Assignment) -> None:
        self._slots[assignment.key] = Slot(assignment)
        self.transitions += 1

    def _leave(self, slot: Slot, successor: Assignment | None, now: float) -> None:
        """End what runs in a slot, then make room."""
        slot.leaving, slot.successor = True, successor
        self.transitions += 1
        if slot.step is Step.FETCHING:
            self._commands.append(CancelFetch(slot.ticket))
        if slot.life is None:
            self._vacate(slot)
        elif slot.step is Step.READY:
            self._commands.append(DrainReplica(slot.life.replica))
            grace_s = self._limits.drain_s(slot.assignment.settings.drain_timeout_s)
            self._enter(slot, Step.DRAINING, now + grace_s)
        elif slot.step is Step.LOADING:
            self._terminate(slot, slot.life, now)  # it has accepted nothing that it could finish

    def _vacate(self, slot: Slot) -> None:
        del self._slots[slot.assignment.key]
        self.transitions += 1
        if slot.successor is not None:
            self._occupy(slot.successor)

    # Fetching and loading

    def _admit(
        self, waiting: Step, busy: Step, begin: Callable[[Slot, float], None], now: float
    ) -> None:
        """Let slots that wait begin, routed ones first, as far as there is room."""
        queue = [slot for slot in self._slots.values() if slot.step is waiting]
        if not queue:
            return
        running = [slot.assignment.routed for slot in self._slots.values() if slot.step is busy]
        for slot in sorted(queue, key=lambda slot: not slot.assignment.routed):
            routed = slot.assignment.routed
            if (sum(running) if routed else len(running)) < self._limits.parallel_loads:
                running.append(routed)
                begin(slot, now)

    def _fetch(self, slot: Slot, now: float) -> None:
        slot.ticket = self._next_serial()
        self._commands.append(Fetch(slot.ticket, slot.assignment))
        self._enter(slot, Step.FETCHING, now + self._limits.fetch_timeout_s)

    def _fetch_over(self, event: Fetched | FetchFailed, now: float) -> None:
        slot = self._slots.get(event.key)
        if slot is None or slot.step is not Step.FETCHING or slot.ticket != event.ticket:
            return
        if isinstance(event, Fetched):
            slot.path, slot.fetch_failures, slot.message = event.path, 0, ""
            self._enter(slot, Step.LOAD_QUEUED)
        else:
            self._fetch_failed(slot, event.message, event.retryable, now)

    def _fetch_failed(self, slot: Slot, message: str, retryable: bool, now: float) -> None:
        slot.fetch_failures += 1
        slot.message = message
        tries_left = slot.fetch_failures < self._limits.fetch_failures_max
        if retryable and (tries_left or slot.assignment.routed):
            delay_s = self._limits.restart_delay_s(slot.fetch_failures + 1)
            self._enter(slot, Step.BACKOFF, now + delay_s)
        else:
            slot.verdict = ReplicaState.FAILED
            self._enter(slot, Step.GIVEN_UP)

    def _spawn(self, slot: Slot, now: float) -> None:
        assert slot.life is None
        assert slot.path is not None
        assert not slot.leaving
        replica = f"{self._incarnation}.{self._next_serial()}"
        slot.life = Life(replica, slot.assignment.device)
        restart = slot.crashes > 0
        slot.restarts += restart
        self._commands.append(Spawn(replica, slot.assignment, slot.path, restart))
        self._enter(slot, Step.LOADING, now + self._limits.load_timeout_s)

    # The life of a process

    def _lived(self, event: LifeEvent, now: float) -> None:
        slot = self._slots.get(event.key)
        if slot is None or slot.life is None or slot.life.replica != event.replica:
            return
        life = slot.life
        match event:
            case Spawned():
                life.pid, life.device = event.pid, event.device
                self.transitions += 1
            case ReplicaReady() if slot.step is Step.LOADING:
                life.provider, life.note, life.ready_at = event.provider, event.note, now
                slot.load_crashes, slot.message = 0, ""
                self._enter(slot, Step.READY)
                self._heard(slot, life, None, now)
            case Noted() if life.note != event.note:
                life.note = event.note
                self.transitions += 1
            case LoadRefused() if slot.step not in ENDING:
                slot.verdict = ReplicaState.INVALID if event.invalid else ReplicaState.FAILED
                slot.message = event.message
                self._enter(slot, Step.DRAINING, now + self._limits.end_grace_s)
            case ReplicaBeat():
                life.queued_rows, life.executing_rows = event.queued_rows, event.executing_rows
                if slot.step is Step.READY:
                    self._heard(slot, life, event.batch_ends_in_s, now)
            case Finished() if slot.step not in (Step.TERMINATING, Step.KILLED):
                life.replace = event.replace
                at_once = now + self._limits.end_grace_s
                # Said again, it moves nothing: a drain ends in time whatever the replica says.
                limit = slot.deadline if slot.step is Step.DRAINING else NEVER
                self._enter(slot, Step.DRAINING, min(limit, at_once))
            case ReplicaEnded():
                self._ended(slot, life, event, now)

    def _heard(self, slot: Slot, life: Life, batch_ends_in_s: float | None, now: float) -> None:
        """A replica that serves said what runs in it."""
        timeout_ms = slot.assignment.settings.execution_timeout_ms
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        life.patience = self._limits.patience(batch_ends_in_s, timeout_s)
        slot.deadline = now + life.patience.seconds

    def _ended(self, slot: Slot, life: Life, event: ReplicaEnded, now: float) -> None:
        slot.life = None
        if life.ready_at is not None and not slot.leaving and slot.step is not Step.DRAINING:
            self._commands.append(Lose(life.replica, event.begun))
        if slot.leaving:
            self._vacate(slot)
            return
        loading = life.ready_at is None
        slot.load_crashes += loading
        if slot.verdict is None:
            # A process that we killed has said nothing of itself: our reason is the better one.
            slot.message = slot.message if slot.step is Step.KILLED else event.how
            if loading and slot.load_crashes >= self._limits.load_crashes_max:
                slot.verdict = ReplicaState.FAILED
                slot.message = f"ended {slot.load_crashes} times while loading: {slot.message}"
        if slot.verdict is not None:
            self._enter(slot, Step.GIVEN_UP)
            return
        if life.replace:
            slot.crashes, slot.message = 0, ""
            self._enter(slot, Step.LOAD_QUEUED)
            return
        healthy = not loading and now - (life.ready_at or now) >= self._limits.healthy_after_s
        slot.crashes = 1 if healthy else slot.crashes + 1
        self._enter(slot, Step.BACKOFF, now + self._limits.restart_delay_s(slot.crashes))

    def _overdue(self, slot: Slot, now: float) -> None:
        match slot.step:
            case Step.FETCHING:
                self._commands.append(CancelFetch(slot.ticket))
                message = f"the download took longer than {self._limits.fetch_timeout_s:g} s"
                self._fetch_failed(slot, message, True, now)
            case Step.BACKOFF:
                self._enter(slot, Step.FETCH_QUEUED if slot.path is None else Step.LOAD_QUEUED)
            case Step.LOADING:
                slot.verdict = ReplicaState.FAILED
                slot.message = f"not ready within {self._limits.load_timeout_s:g} s"
                self._kill(slot, KillReason.LOAD_TIMEOUT)
            case Step.READY if slot.life is not None and slot.life.patience is not None:
                slot.message = slot.life.patience.message
                self._kill(slot, slot.life.patience.reason)
            case Step.DRAINING if slot.life is not None:
                self._terminate(slot, slot.life, now)
            case Step.TERMINATING:
                self._kill(slot, KillReason.NOT_ENDED)

    def _terminate(self, slot: Slot, life: Life, now: float) -> None:
        self._commands.append(Terminate(life.replica))
        self._enter(slot, Step.TERMINATING, now + self._limits.end_grace_s)

    def _kill(self, slot: Slot, reason: KillReason) -> None:
        assert slot.life is not None
        self._commands.append(Kill(slot.life.replica, reason))
        self._enter(slot, Step.KILLED)

    # Everything that changes a step or the clock

    def _enter(self, slot: Slot, step: Step, deadline: float = NEVER) -> None:
        slot.step, slot.deadline = step, deadline
        self.transitions += 1

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def _forgive_pause(self, now: float) -> None:
        pause_s = now - self._now if self._now is not None else 0.0
        self._now = now
        if pause_s > PAUSE_S:
            for slot in self._slots.values():
                if slot.step is not Step.BACKOFF:
                    slot.deadline += pause_s

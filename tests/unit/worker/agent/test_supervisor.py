"""The supervisor: what it decides in each situation, and what it never does in any."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock.shared.contracts.deployment import (
    ArtifactManifest,
    ArtifactSource,
    ReplicaSettings,
    ReplicaState,
)
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
from penstock.worker.agent.supervisor import PAUSE_S, Supervisor
from penstock.worker.agent.wanted import Assignment
from tests.support.examples import examples

LIMITS = SupervisionLimits(parallel_loads=2)


def assignment(key: str, revision: str = "r1", *, routed: bool = True) -> Assignment:
    return Assignment(
        key=key,
        model="digits",
        version="1",
        revision=revision,
        device="cpu",
        source=ArtifactSource(uri="models:/digits/1", tracking_uri="http://mlflow"),
        manifest=ArtifactManifest(files=()),
        settings=ReplicaSettings(),
        routed=routed,
    )


class Bench:
    """A supervisor on a workbench: time by hand, and the newest life of each key."""

    def __init__(self, limits: SupervisionLimits = LIMITS) -> None:
        self.now = 100.0
        self.supervisor = Supervisor("w-1", limits)
        self.commands: list[Command] = []
        self.replicas: dict[str, str] = {}
        self.tickets: dict[str, int] = {}

    def do(self, event: Event) -> list[Command]:
        commands = self.supervisor.handle(event, self.now)
        for command in commands:
            if isinstance(command, Spawn):
                self.replicas[command.assignment.key] = command.replica
            elif isinstance(command, Fetch):
                self.tickets[command.assignment.key] = command.ticket
        return commands

    def place(self, *assignments: Assignment) -> list[Command]:
        return self.do(Placed(assignments))

    def fetched(self, key: str = "a") -> list[Command]:
        return self.do(Fetched(key, self.tickets[key], f"/cache/{key}"))

    def loaded(self, key: str = "a") -> list[Command]:
        return self.do(ReplicaReady(key, self.replicas[key], "CPUExecutionProvider"))

    def ended(self, key: str = "a", how: str = "ended by SIGKILL") -> list[Command]:
        return self.do(ReplicaEnded(key, self.replicas[key], how))

    def make_ready(self, key: str = "a") -> None:
        self.fetched(key)
        self.loaded(key)

    def advance(self, seconds: float, *, beating: Iterable[str] = ()) -> list[Command]:
        """Let time pass as an agent would; `beating` keys send heartbeats."""
        until, commands = self.now + seconds, []
        while True:
            due = self.supervisor.next_deadline()
            if due is None or due > until:
                self.now = until
                commands += self.do(Tick())
                return commands
            self.now = max(self.now, due)
            for key in beating:
                commands += self.do(ReplicaBeat(key, self.replicas[key], 0, 0))
            commands += self.do(Tick())

    def states(self) -> dict[str, ReplicaState]:
        return {report.key: report.state for report in self.supervisor.reports()}

    def message(self, key: str = "a") -> str:
        return next(one.message for one in self.supervisor.reports() if one.key == key)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def kinds(commands: Iterable[Command]) -> list[type[Command]]:
    return [type(command) for command in commands]


def spawned_keys(commands: Iterable[Command]) -> list[str]:
    return [one.assignment.key for one in commands if isinstance(one, Spawn)]


def test_from_placement_to_ready(bench: Bench) -> None:
    assert kinds(bench.place(assignment("a"))) == [Fetch]
    assert bench.states() == {"a": ReplicaState.FETCHING}
    commands = bench.fetched()
    assert kinds(commands) == [Spawn]
    assert isinstance(commands[0], Spawn)
    assert commands[0].path == "/cache/a"
    assert not commands[0].restart
    assert bench.states() == {"a": ReplicaState.LOADING}
    bench.do(Spawned("a", bench.replicas["a"], 77, "cuda:1"))
    assert bench.loaded() == []
    (report,) = bench.supervisor.reports()
    assert (report.state, report.pid, report.device) == (ReplicaState.READY, 77, "cuda:1")
    assert report.replica == bench.replicas["a"]
    assert report.provider == "CPUExecutionProvider"
    assert "a: READY" in repr(bench.supervisor)


def test_a_note_is_reported_changes_and_ends_with_its_process(bench: Bench) -> None:
    def note() -> str:
        return bench.supervisor.reports()[0].note

    bench.place(assignment("a"))
    bench.fetched()
    bench.do(
        ReplicaReady("a", bench.replicas["a"], "CPUExecutionProvider", "not batched: by its names")
    )
    assert note() == "not batched: by its names"
    before = bench.supervisor.transitions
    bench.do(Noted("a", bench.replicas["a"], "not batched: lost rows"))
    assert (note(), bench.supervisor.transitions) == ("not batched: lost rows", before + 1)
    bench.do(Noted("a", bench.replicas["a"], "not batched: lost rows"))
    bench.do(Noted("a", "another life", "late"))
    assert (note(), bench.supervisor.transitions) == ("not batched: lost rows", before + 1)
    bench.ended()
    assert note() == ""


def test_same_placement_again_changes_nothing(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    transitions = bench.supervisor.transitions
    assert bench.place(assignment("a", routed=False)) == []
    assert bench.supervisor.transitions == transitions


def test_crash_restarts_at_once_then_with_delays_that_double(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    assert spawned_keys(bench.ended()) == ["a"]
    bench.loaded()
    delays = []
    for _ in range(9):
        assert spawned_keys(bench.ended()) == []
        assert bench.states() == {"a": ReplicaState.BACKOFF}
        assert bench.message() == "ended by SIGKILL"
        began = bench.now
        while not spawned_keys(bench.do(Tick())):
            bench.now += 0.25
        delays.append(bench.now - began)
        bench.loaded()
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert bench.supervisor.reports()[0].restarts == 10


def test_who_served_and_ended_unasked_is_told_of_and_who_leaves_is_not(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.fetched()
    assert Lose not in kinds(bench.ended())
    bench.loaded()
    served = bench.replicas["a"]
    assert Lose(served, {"job"}) in bench.do(ReplicaEnded("a", served, "exited", {"job"}))
    bench.advance(10)
    bench.loaded()
    bench.place()
    assert bench.ended() == []


def test_who_ends_to_stop_what_nobody_wants_is_replaced_at_once_and_did_not_crash(
    bench: Bench,
) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    for _ in range(5):
        bench.do(Finished("a", bench.replicas["a"], replace=True))
        commands = bench.ended(how="exited with code 0")
        assert kinds(commands) == [Spawn]
        assert isinstance(commands[0], Spawn)
        assert not commands[0].restart
        bench.loaded()
    (report,) = bench.supervisor.reports()
    assert (report.state, report.restarts, report.message) == (ReplicaState.READY, 0, "")
    bench.do(Finished("a", bench.replicas["a"], replace=True))
    bench.place()
    assert bench.ended() == []  # nothing is placed here any more
    assert bench.supervisor.idle


def test_an_operator_may_let_a_drain_take_longer(bench: Bench) -> None:
    long = ReplicaSettings(drain_timeout_s=LIMITS.drain_grace_s + 60)
    bench.place(replace(assignment("a"), settings=long))
    bench.make_ready()
    bench.place()
    assert bench.advance(LIMITS.drain_grace_s + 59) == []
    assert kinds(bench.advance(1)) == [Terminate]


def test_whoever_runs_the_worker_bounds_that(bench: Bench) -> None:
    longest = ReplicaSettings(drain_timeout_s=LIMITS.drain_timeout_s_max + 60)
    bench.place(replace(assignment("a"), settings=longest))
    bench.make_ready()
    bench.do(Shutdown())
    assert bench.advance(LIMITS.drain_timeout_s_max - 1) == []
    assert kinds(bench.advance(1)) == [Terminate]


def test_health_wipes_the_record(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    for _ in range(3):
        bench.ended()
        bench.advance(LIMITS.backoff_s_max)
        bench.loaded()
    bench.advance(LIMITS.healthy_after_s, beating=["a"])
    assert spawned_keys(bench.ended()) == ["a"]


def test_refused_load_is_final_until_placed_anew(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.fetched()
    bench.do(LoadRefused("a", bench.replicas["a"], "no signature", invalid=True))
    assert bench.states() == {"a": ReplicaState.INVALID}
    assert bench.ended(how="exited with code 3") == []
    assert bench.advance(10_000) == []
    assert bench.states() == {"a": ReplicaState.INVALID}
    assert bench.message() == "no signature"
    assert bench.place() == []
    assert kinds(bench.place(assignment("a"))) == [Fetch]


def test_a_new_attempt_number_is_a_new_placement(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.fetched()
    bench.do(LoadRefused("a", bench.replicas["a"], "out of memory", invalid=False))
    again = replace(assignment("a"), attempt=1)
    assert bench.place(again) == []
    assert bench.states() == {"a": ReplicaState.DRAINING}
    assert kinds(bench.ended()) == [Fetch]
    bench.make_ready()
    assert bench.place(replace(again, attempt=0)) == []
    assert bench.states() == {"a": ReplicaState.READY}


def test_a_refused_load_that_does_not_end_is_ended(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.fetched()
    bench.do(LoadRefused("a", bench.replicas["a"], "broken", invalid=False))
    assert kinds(bench.advance(60)) == [Terminate, Kill]
    bench.ended()
    assert bench.states() == {"a": ReplicaState.FAILED}
    assert bench.message() == "broken"


def test_two_crashes_while_loading_are_a_failed_load(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.fetched()
    assert spawned_keys(bench.ended(how="ended by SIGSEGV")) == ["a"]
    assert bench.ended(how="ended by SIGSEGV") == []
    assert bench.states() == {"a": ReplicaState.FAILED}
    assert bench.message() == "ended 2 times while loading: ended by SIGSEGV"
    assert bench.advance(10_000) == []


def test_load_timeout_kills_and_fails(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.fetched()
    assert bench.advance(LIMITS.load_timeout_s - 1) == []
    assert kinds(bench.advance(1)) == [Kill]
    assert bench.states() == {"a": ReplicaState.FAILED}
    assert bench.ended() == []
    assert bench.message() == "not ready within 600 s"


def timed(key: str, execution_timeout_ms: float) -> Assignment:
    limited = ReplicaSettings(execution_timeout_ms=execution_timeout_ms)
    return replace(assignment(key), settings=limited)


def beat(bench: Bench, batch_ends_in_s: float | None = None, key: str = "a") -> list[Command]:
    return bench.do(ReplicaBeat(key, bench.replicas[key], 0, 1, batch_ends_in_s))


def killed(bench: Bench, reason: KillReason, key: str = "a") -> list[Command]:
    return [Kill(bench.replicas[key], reason)]


def test_a_batch_that_goes_on_for_too_long_ends_its_replica_though_it_beats(bench: Bench) -> None:
    bench.place(timed("a", 2000))
    bench.make_ready()
    for left_s in (1.9, 1.4, 0.9, 0.4):
        assert beat(bench, left_s) == []
        assert bench.advance(0.5) == []
    assert beat(bench, -0.1) == []
    assert bench.advance(0.39) == []
    assert bench.advance(0.02) == killed(bench, KillReason.EXECUTION_TIMEOUT)
    assert spawned_keys(bench.ended()) == ["a"], "replaced at once"
    assert bench.message() == "a batch ran for longer than its 2 s"


def test_a_batch_that_was_told_of_is_ended_in_time_without_another_word(bench: Bench) -> None:
    bench.place(timed("a", 2000))
    bench.make_ready()
    beat(bench, 1.5)
    assert bench.advance(1.5 + LIMITS.overrun_slack_s - 0.01) == []
    assert bench.advance(0.01) == killed(bench, KillReason.EXECUTION_TIMEOUT)


def test_a_batch_that_holds_the_interpreter_is_ended_though_it_was_never_told_of(
    bench: Bench,
) -> None:
    bench.place(timed("a", 2000))
    bench.make_ready()
    beat(bench)
    silence_s = LIMITS.heartbeat_interval_s + 2 + LIMITS.overrun_slack_s
    assert bench.advance(silence_s - 0.01) == []
    assert bench.advance(0.01) == killed(bench, KillReason.EXECUTION_TIMEOUT)


def test_a_short_silence_kills_nobody_however_short_executions_are(bench: Bench) -> None:
    bench.place(timed("a", 10))
    bench.make_ready()
    assert bench.advance(LIMITS.silence_s_min - 0.01) == []
    assert bench.advance(0.01) == killed(bench, KillReason.EXECUTION_TIMEOUT)


def test_a_batch_that_nobody_waits_for_ends_its_replica(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    beat(bench, 10.0)
    assert bench.advance(10 + LIMITS.overrun_slack_s) == killed(bench, KillReason.HUNG)
    bench.ended()
    assert (
        bench.message()
        == "hung: its batch went on for longer than anybody waits, or than its job may take"
    )


def test_a_batch_that_ended_is_forgotten(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    beat(bench, 1.0)
    bench.now += 0.9
    beat(bench, None)
    assert bench.advance(LIMITS.hung_after_s - 0.01) == []


def test_holding_the_interpreter_kills_nobody_before_hung_after(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    beat(bench, 60.0)
    assert bench.advance(LIMITS.hung_after_s - 0.01) == []
    assert bench.advance(0.01) == killed(bench, KillReason.HUNG)


def test_loads_are_limited_by_their_own_timeout_alone(bench: Bench) -> None:
    bench.place(timed("a", 10))
    bench.fetched()
    beat(bench)
    assert bench.advance(LIMITS.load_timeout_s - 1) == []
    assert bench.advance(1) == killed(bench, KillReason.LOAD_TIMEOUT)


def test_what_a_replica_said_while_the_agent_was_busy_counts(bench: Bench) -> None:
    bench.place(timed("a", 10), timed("b", 10))
    bench.make_ready("a")
    bench.make_ready("b")
    bench.now += PAUSE_S - 0.1
    assert beat(bench, key="a") == []
    assert beat(bench, key="b") == []
    assert bench.do(Tick()) == []


def test_hung_replica_is_killed_and_restarted(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    assert bench.advance(600, beating=["a"]) == []
    assert kinds(bench.advance(LIMITS.hung_after_s)) == [Kill]
    assert bench.states() == {"a": ReplicaState.BACKOFF}
    assert spawned_keys(bench.ended()) == ["a"]
    assert bench.message() == "hung: silent for 30 s"


def test_a_pause_of_the_agent_kills_nobody(bench: Bench) -> None:
    bench.place(assignment("a"), assignment("b"))
    bench.make_ready("a")
    bench.fetched("b")
    bench.now += 1_000
    assert bench.do(Tick()) == []
    assert bench.states() == {"a": ReplicaState.READY, "b": ReplicaState.LOADING}


def test_unplaced_replica_drains_then_is_ended(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    assert kinds(bench.place()) == [DrainReplica]
    assert bench.states() == {"a": ReplicaState.DRAINING}
    assert bench.advance(LIMITS.drain_grace_s - 1) == []
    assert kinds(bench.advance(1)) == [Terminate]
    assert kinds(bench.advance(LIMITS.end_grace_s)) == [Kill]
    assert bench.advance(10_000) == []
    assert bench.ended() == []
    assert bench.supervisor.idle


def test_drained_replica_must_end_soon(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    bench.place()
    bench.do(Finished("a", bench.replicas["a"]))
    bench.advance(LIMITS.end_grace_s / 2)
    bench.do(Finished("a", bench.replicas["a"]))
    assert kinds(bench.advance(LIMITS.end_grace_s / 2)) == [Terminate]


def test_unplaced_before_ready_is_ended_without_drain(bench: Bench) -> None:
    bench.place(assignment("a"), assignment("b"))
    bench.fetched("a")
    commands = bench.place()
    assert sorted(kind.__name__ for kind in kinds(commands)) == ["CancelFetch", "Terminate"]
    assert bench.loaded("a") == []
    assert bench.fetched("b") == []
    assert bench.states() == {"a": ReplicaState.DRAINING}


def test_placed_again_while_draining_is_a_new_life_after_the_old(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    old = bench.replicas["a"]
    bench.place()
    assert bench.place(assignment("a")) == []
    assert bench.states() == {"a": ReplicaState.DRAINING}
    assert kinds(bench.ended()) == [Fetch]
    bench.make_ready()
    assert bench.replicas["a"] != old
    assert bench.do(ReplicaEnded("a", old, "late")) == []
    assert bench.states() == {"a": ReplicaState.READY}


def test_another_revision_at_the_same_key_replaces(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    assert kinds(bench.place(assignment("a", "r2"))) == [DrainReplica]
    (command,) = bench.ended()
    assert isinstance(command, Fetch)
    assert command.assignment.revision == "r2"


def test_replica_that_drains_by_itself_is_restarted(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.make_ready()
    bench.do(Finished("a", bench.replicas["a"]))
    assert spawned_keys(bench.ended(how="exited with code 0")) == ["a"]


def test_fetch_that_may_succeed_later_is_tried_again(bench: Bench) -> None:
    bench.place(assignment("a", routed=False))
    for _ in range(LIMITS.fetch_failures_max - 1):
        assert bench.do(FetchFailed("a", bench.tickets["a"], "MLflow is away", True)) == []
        assert bench.states() == {"a": ReplicaState.BACKOFF}
        assert kinds(bench.advance(LIMITS.backoff_s_max)) == [Fetch]
    bench.do(FetchFailed("a", bench.tickets["a"], "MLflow is away", True))
    assert bench.states() == {"a": ReplicaState.FAILED}


def test_routed_fetch_is_tried_for_ever(bench: Bench) -> None:
    bench.place(assignment("a"))
    for _ in range(100):
        bench.do(FetchFailed("a", bench.tickets["a"], "MLflow is away", True))
        assert kinds(bench.advance(LIMITS.backoff_s_max)) == [Fetch]


def test_fetch_of_broken_artifacts_has_failed(bench: Bench) -> None:
    bench.place(assignment("a"))
    bench.do(FetchFailed("a", bench.tickets["a"], "digest differs", False))
    assert bench.states() == {"a": ReplicaState.FAILED}
    assert bench.message() == "digest differs"


def test_fetch_timeout(bench: Bench) -> None:
    bench.place(assignment("a"))
    assert kinds(bench.advance(LIMITS.fetch_timeout_s)) == [CancelFetch]
    assert kinds(bench.advance(LIMITS.backoff_s_max)) == [Fetch]


def test_answer_to_a_fetch_that_was_given_up_is_ignored(bench: Bench) -> None:
    bench.place(assignment("a"))
    former = bench.tickets["a"]
    assert kinds(bench.place(assignment("a", "r2"))) == [CancelFetch, Fetch]
    assert bench.do(Fetched("a", former, "/cache/r1")) == []
    (command,) = bench.fetched()
    assert isinstance(command, Spawn)
    assert command.assignment.revision == "r2"


def test_routed_revisions_go_first_and_are_not_delayed(bench: Bench) -> None:
    others = [assignment(f"other-{n}", routed=False) for n in range(4)]
    served = [assignment(f"served-{n}") for n in range(3)]
    first = [c.assignment.key for c in bench.place(*others, *served) if isinstance(c, Fetch)]
    assert first == ["served-0", "served-1"]
    # Others take the room that is left, and a routed one that comes later does not wait for them.
    for key in ("served-0", "served-1"):
        bench.make_ready(key)
    bench.make_ready("served-2")
    for key in ("other-0", "other-1"):
        bench.fetched(key)
    assert spawned_keys(bench.ended("served-1")) == ["served-1"]


def test_shutdown_ends_everything_and_takes_nothing_on(bench: Bench) -> None:
    bench.place(assignment("a"), assignment("b"), assignment("c"))
    bench.make_ready("a")
    bench.fetched("b")
    commands = bench.do(Shutdown())
    assert set(kinds(commands)) == {DrainReplica, Terminate, CancelFetch}
    assert bench.place(assignment("a"), assignment("d")) == []
    bench.ended("a")
    bench.ended("b")
    assert bench.supervisor.idle
    assert bench.supervisor.next_deadline() is None


@dataclass
class Child:
    """A process of the modelled machine.

    It ends at `DrainReplica` (0), `Terminate` (1) or `Kill` (2).
    """

    key: str
    stubborn: int
    ready: bool = False
    hung: bool = False
    batch_ends_by: float | None = None
    asked: int = -1


PLACE = st.tuples(st.sampled_from(["r1", "r1", "r2"]), st.booleans(), st.sampled_from([0, 0, 1]))
PLACES = st.one_of(
    st.fixed_dictionaries({}, optional=dict.fromkeys("abcd", PLACE)),
    st.fixed_dictionaries(dict.fromkeys("abcd", PLACE)),
)


class SupervisedMachine(RuleBasedStateMachine):
    """Any history of placements, faults and delays on a modelled machine."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.supervisor = Supervisor("w", LIMITS)
        self.placed: dict[str, Assignment] = {}
        self.fetches: dict[int, str] = {}
        self.children: dict[str, Child] = {}
        self.ending: list[str] = []
        self.seen: set[str] = set()
        self.closed = False
        self.stubborn = 0

    # The machine

    def do(self, event: Event) -> None:
        for command in self.supervisor.handle(event, self.now):
            match command:
                case Fetch():
                    self.check_wanted(command.assignment)
                    assert command.ticket not in self.fetches
                    assert command.assignment.key not in self.fetches.values()
                    self.fetches[command.ticket] = command.assignment.key
                case CancelFetch():
                    del self.fetches[command.ticket]
                case Spawn():
                    self.spawn(command)
                case DrainReplica():
                    self.ask(command.replica, 0)
                case Terminate():
                    self.ask(command.replica, 1)
                case Kill():
                    self.check_kill(command)
                    self.ask(command.replica, 2)

    def spawn(self, command: Spawn) -> None:
        key = command.assignment.key
        self.check_wanted(command.assignment)
        assert command.replica not in self.seen, "a life was used twice"
        assert all(child.key != key for child in self.children.values()), "two children"
        self.seen.add(command.replica)
        self.children[command.replica] = Child(key, self.stubborn)
        loading = [
            self.placed[child.key].routed
            for child in self.children.values()
            if not child.ready and child.asked < 0 and child.key in self.placed
        ]
        assert len(loading) <= 2 * LIMITS.parallel_loads

    def check_wanted(self, assignment: Assignment) -> None:
        assert not self.closed
        assert assignment.same_replica(self.placed[assignment.key]), "not placed any more"

    def check_kill(self, command: Kill) -> None:
        child = self.children[command.replica]
        if command.reason is KillReason.HUNG:
            over = child.batch_ends_by is not None and self.now >= child.batch_ends_by
            assert child.hung or over, "killed though it was well"

    def ask(self, replica: str, how: int) -> None:
        child = self.children[replica]
        assert how > child.asked, "asked again, or more gently than before"
        child.asked = how
        if how >= child.stubborn and replica not in self.ending:
            self.ending.append(replica)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            due = self.supervisor.next_deadline()
            self.now = until if due is None else min(max(self.now, due), until)
            self.work()
            self.do(Tick())
            if due is not None and due <= self.now:
                after = self.supervisor.next_deadline()
                assert after is None or after > self.now, "overdue, and nothing done"

    def work(self) -> None:
        """What replicas and the kernel do by themselves."""
        while self.ending:
            replica = self.ending.pop()
            self.do(ReplicaEnded(self.children.pop(replica).key, replica, "ended"))
        for replica, child in list(self.children.items()):
            if child.ready and not child.hung:
                by = child.batch_ends_by
                self.do(
                    ReplicaBeat(child.key, replica, 1, 1, None if by is None else by - self.now)
                )

    def pick(self, index: int, *, ready: bool | None = None) -> tuple[str, Child] | None:
        """Some child that nobody asked to end."""
        found = [
            (replica, child)
            for replica, child in self.children.items()
            if (ready is None or child.ready == ready) and child.asked < 0
        ]
        return found[index % len(found)] if found else None

    # What may happen

    @initialize(places=PLACES)
    def begin(self, places: dict[str, tuple[str, bool, int]]) -> None:
        self.place(places)

    @rule(places=PLACES)
    def place(self, places: dict[str, tuple[str, bool, int]]) -> None:
        if not self.closed:
            self.placed = {
                key: replace(assignment(key, revision, routed=routed), attempt=attempt)
                for key, (revision, routed, attempt) in places.items()
            }
        self.do(Placed(tuple(self.placed.values())))

    @precondition(lambda self: self.fetches or self.children)
    @rule()
    def all_goes_well(self) -> None:
        for ticket, key in list(self.fetches.items()):
            del self.fetches[ticket]
            self.do(Fetched(key, ticket, "/cache"))
        for replica, child in list(self.children.items()):
            if not child.ready and child.asked < 0:
                child.ready = True
                self.do(ReplicaReady(child.key, replica, "CPU"))

    @precondition(lambda self: self.fetches)
    @rule(index=st.integers(0, 3), outcome=st.sampled_from(["ok", "ok", "later", "never"]))
    def fetch_over(self, index: int, outcome: str) -> None:
        ticket = sorted(self.fetches)[index % len(self.fetches)]
        key = self.fetches.pop(ticket)
        if outcome == "ok":
            self.do(Fetched(key, ticket, "/cache"))
        else:
            self.do(FetchFailed(key, ticket, outcome, outcome == "later"))

    @precondition(lambda self: self.children)
    @rule(index=st.integers(0, 3), refuse=st.sampled_from([None, None, False, True]))
    def load_over(self, index: int, refuse: bool | None) -> None:
        if (picked := self.pick(index, ready=False)) is None:
            return
        replica, child = picked
        if refuse is None:
            child.ready = True
            self.do(ReplicaReady(child.key, replica, "CPU"))
        else:
            self.do(LoadRefused(child.key, replica, "refused", refuse))

    @precondition(lambda self: self.children)
    @rule(index=st.integers(0, 3))
    def crash(self, index: int) -> None:
        if (picked := self.pick(index)) is not None:
            replica, child = picked
            del self.children[replica]
            self.do(ReplicaEnded(child.key, replica, "crashed"))

    @precondition(lambda self: self.children)
    @rule(index=st.integers(0, 3))
    def finish_unasked(self, index: int) -> None:
        if (picked := self.pick(index)) is not None:
            replica, child = picked
            self.do(Finished(child.key, replica))

    @precondition(lambda self: self.children)
    @rule(index=st.integers(0, 3))
    def hang(self, index: int) -> None:
        if (picked := self.pick(index, ready=True)) is not None:
            picked[1].hung = True

    @precondition(lambda self: self.children)
    @rule(index=st.integers(0, 3), seconds=st.sampled_from([None, 0.5, 5.0, 500.0]))
    def run_a_batch(self, index: int, seconds: float | None) -> None:
        if (picked := self.pick(index, ready=True)) is not None:
            picked[1].batch_ends_by = None if seconds is None else self.now + seconds

    @rule(stubborn=st.integers(0, 2))
    def turn_stubborn(self, stubborn: int) -> None:
        self.stubborn = stubborn

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(seconds=st.sampled_from([10.0, 1000.0]))
    def agent_pauses(self, seconds: float) -> None:
        self.work()
        self.do(Tick())
        asked = {replica: child.asked for replica, child in self.children.items()}
        before = {one.key: one.state for one in self.supervisor.reports()}
        self.now += seconds
        self.do(Tick())
        for replica, child in self.children.items():
            if before.get(child.key) is ReplicaState.READY and not child.hung:
                assert child.asked == asked[replica], "killed for a pause of the agent"

    @rule()
    def late_events_of_former_lives(self) -> None:
        for replica in sorted(self.seen - self.children.keys())[:5]:
            for key in ("a", "b"):
                self.do(ReplicaEnded(key, replica, "late"))
                self.do(ReplicaReady(key, replica, "late"))

    @invariant()
    def reports_are_one_per_slot(self) -> None:
        reports = self.supervisor.reports()
        keys = [report.key for report in reports]
        assert len(keys) == len(set(keys))
        assert set(self.placed) <= set(keys) or self.closed
        living = {report.replica for report in reports if report.replica}
        assert living == set(self.children), "a child without a slot, or a slot without its child"

    # In the end

    def settle(self) -> None:
        """With no more faults, all that is placed becomes ready or is given up, in bounded time."""
        self.stubborn = 0
        for _ in range(30):
            for child in self.children.values():
                child.hung, child.batch_ends_by = False, None
            self.all_goes_well()
            self.pass_time(LIMITS.backoff_s_max / 4)
        final = {ReplicaState.READY, ReplicaState.FAILED, ReplicaState.INVALID}
        assert {report.state for report in self.supervisor.reports()} <= final

    def teardown(self) -> None:
        self.settle()
        self.placed, self.closed = {}, True
        self.do(Shutdown())
        self.pass_time(LIMITS.drain_grace_s + 3 * LIMITS.end_grace_s)
        assert not self.children, "a child was never ended"
        assert self.supervisor.idle


TestSupervisedMachine = SupervisedMachine.TestCase
TestSupervisedMachine.settings = examples(120, stateful_step_count=40)

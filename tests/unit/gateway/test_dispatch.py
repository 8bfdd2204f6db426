"""Every call resolves exactly once, whatever replicas do."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.calls import InferenceCall
from gateway.commands import (
    Answered,
    Command,
    Failed,
    SendCancel,
    SendProceed,
    SendRequest,
    Streamed,
)
from gateway.dispatch import Dispatch, DispatchLimits
from gateway.replicas import Replica, Replicas
from gateway.traffic import Routes
from shared.deployment import ModelInterface
from shared.errors import ErrorCode, PenstockError
from shared.messages import Chunk, Final, Nack, NackReason
from shared.routing import ModelRoute, RoutingTable, VersionRoute
from shared.tensors import Tensor

INTERFACE = ModelInterface(inputs=(), outputs=(), max_batch_size=8, platform="test")
X = Tensor("x", "FP32", (1, 1), b"\0\0\0\0")


def call(timeout_s: float | None = 10.0, version: str | None = None) -> InferenceCall:
    return InferenceCall("m", version, (X,), timeout_s=timeout_s)


def table(generation: int, *versions: str) -> RoutingTable:
    routes = tuple(VersionRoute(version=v, revision=f"m/{v}") for v in versions)
    route = ModelRoute(model="m", generation=generation, versions=routes)
    return RoutingTable(generation=generation, models={"m": route})


class World:
    """A dispatch with its replicas, and what became of every call."""

    def __init__(self, limits: DispatchLimits | None = None) -> None:
        self.routes = Routes()
        self.replicas = Replicas(silence_s=1.5)
        self.dispatch = Dispatch(
            limits or DispatchLimits(), self.routes, self.replicas, random.Random(1)
        )
        self.routes.take_table(table(1, "1"))
        self.now = 0.0
        self.outcomes: dict[int, Answered | Failed] = {}
        self.sent: dict[int, SendRequest] = {}
        self.cancels: list[int] = []
        self.streamed: list[int] = []
        self.proceeding: list[int] = []
        self.lives = 0

    def do(self, commands: list[Command]) -> list[Command]:
        for command in commands:
            match command:
                case SendRequest():
                    self.sent[command.request.attempt_id] = command
                case SendProceed():
                    self.proceeding.append(command.proceed.attempt_id)
                case SendCancel():
                    self.cancels.append(command.cancel.attempt_id)
                    self.sent.pop(command.cancel.attempt_id, None)
                case Answered() | Failed():
                    assert command.call_id not in self.outcomes, "a call resolved twice"
                    self.outcomes[command.call_id] = command
                case Streamed():
                    self.streamed.append(command.call_id)
        return commands

    def join(self, version: str = "1") -> str:
        self.lives += 1
        name = f"r{self.lives}"
        record = Replica(name, "w", "m", version, f"m/{version}", INTERFACE, self.now)
        self.replicas.add(record)
        self.do(self.dispatch.replica_ready(self.now))
        return name

    def lose(self, name: str) -> None:
        record = self.replicas.remove(name)
        assert record is not None
        self.sent = {n: c for n, c in self.sent.items() if c.replica != name}
        self.do(self.dispatch.replica_lost(record, self.now))

    def submit(
        self, number: int, timeout_s: float | None = 10.0, version: str | None = None
    ) -> None:
        self.do(self.dispatch.submit(number, call(timeout_s, version), self.now))

    def take_turn(self, attempt: int) -> None:
        name = self.sent[attempt].replica
        self.do(self.dispatch.suspect_turn(name, attempt))

    def answer(self, attempt: int) -> None:
        self.do(self.dispatch.final(self.sent.pop(attempt).replica, Final(attempt), self.now))

    def nack(self, attempt: int, reason: NackReason) -> None:
        name = self.sent.pop(attempt).replica
        self.do(self.dispatch.nack(name, Nack(attempt, reason), self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for replica in self.replicas:
            replica.heard_at = self.now
        self.do(self.dispatch.advance(self.now))

    def code(self, number: int) -> ErrorCode:
        outcome = self.outcomes[number]
        assert isinstance(outcome, Failed)
        return outcome.error.code


class Dispatching(RuleBasedStateMachine):
    """Calls, replicas, answers, losses and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(DispatchLimits(queue_limit=20, replica_wait_s=2.0, attempts_max=6))
        self.open: dict[int, float] = {}
        self.losses: dict[int, int] = {}
        self.names: list[str] = []
        self.count = 0
        self.generation = 1
        self.cancelled: set[int] = set()

    @rule(timeout_s=st.floats(0.1, 5.0))
    def submit(self, timeout_s: float) -> None:
        self.count += 1
        if len(self.world.dispatch) >= 20:
            with pytest.raises(PenstockError, match="queue of model 'm' is full"):
                self.world.submit(self.count, timeout_s)
            return
        self.world.submit(self.count, timeout_s)
        self.open[self.count] = self.world.now + timeout_s

    @rule(version=st.sampled_from("12"))
    def join(self, version: str) -> None:
        self.names.append(self.world.join(version))

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if self.names:
            name = data.draw(st.sampled_from(self.names))
            self.names.remove(name)
            self.world.lose(name)

    @rule(data=st.data(), how=st.sampled_from(["answer", "late", "turn", *NackReason]))
    def reply(self, data: st.DataObject, how: str | NackReason) -> None:
        if not self.world.sent:
            return
        attempt = data.draw(st.sampled_from(sorted(self.world.sent)))
        if isinstance(how, NackReason):
            self.world.nack(attempt, how)
        elif how == "answer":
            self.world.answer(attempt)
        elif how == "turn":
            self.world.take_turn(attempt)
        else:
            command = self.world.sent[attempt]
            late = self.world.dispatch.final("nobody", Final(attempt), self.world.now)
            assert late == [], f"an answer from elsewhere than {command.replica} counted"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, self.count + 1))
        if number in self.open and number not in self.world.outcomes:
            self.cancelled.add(number)
        self.world.do(self.world.dispatch.cancel(number))

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(version=st.sampled_from("12"))
    def flip(self, version: str) -> None:
        self.generation += 1
        self.world.routes.take_table(table(self.generation, version))
        self.world.do(self.world.dispatch.replica_ready(self.world.now))

    @invariant()
    def no_call_outlives_its_deadline(self) -> None:
        for number, deadline in self.open.items():
            if deadline <= self.world.now:
                assert number in self.world.outcomes or number in self.cancelled

    @invariant()
    def every_open_call_is_counted(self) -> None:
        live = set(self.open) - set(self.world.outcomes) - self.cancelled
        assert len(self.world.dispatch) == len(live)
        assert self.world.dispatch.open_calls() == ({"m": len(live)} if live else {})

    @invariant()
    def replicas_hold_what_was_sent_and_one_suspect_at_most(self) -> None:
        held = {attempt for replica in self.world.replicas for attempt in replica.attempts}
        assert held == set(self.world.sent)
        for replica in self.world.replicas:
            assert replica.rows == len(replica.attempts)
            suspects = [n for n in replica.attempts if self.world.sent[n].request.suspect]
            assert suspects == ([replica.suspect] if replica.suspect is not None else [])

    def teardown(self) -> None:
        self.world.advance(10.0)
        assert len(self.world.dispatch) == 0
        assert self.world.dispatch.next_deadline() is None
        assert all(not replica.attempts for replica in self.world.replicas)
        for outcome in self.world.outcomes.values():
            if isinstance(outcome, Answered):
                assert outcome.answer.attempts <= 6
        super().teardown()


TestDispatching = Dispatching.TestCase
TestDispatching.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_a_call_goes_to_a_replica_with_its_remaining_budget() -> None:
    world = World()
    world.join()
    world.submit(1, timeout_s=2.0)
    (command,) = world.sent.values()
    assert command.request.budget_us == 2_000_000
    world.answer(1)
    assert isinstance(world.outcomes[1], Answered)


def test_calls_of_a_lost_replica_run_again_one_at_a_time_as_suspects() -> None:
    world = World()
    first = world.join()
    for number in (1, 2, 3):
        world.submit(number)
    world.join()
    world.lose(first)
    (command,) = world.sent.values()
    assert command.request.suspect
    for _ in range(3):
        world.answer(next(iter(world.sent)))
    assert all(isinstance(outcome, Answered) for outcome in world.outcomes.values())
    assert len(world.outcomes) == 3


def test_a_query_of_death_is_named_after_two_losses_and_takes_nobody_with_it() -> None:
    world = World()
    first = world.join()
    for number in (1, 2, 3):
        world.submit(number)
    second = world.join()
    world.lose(first)
    culprit = next(iter(world.sent.values()))
    world.take_turn(culprit.request.attempt_id)
    assert world.proceeding == [culprit.request.attempt_id]
    world.submit(4)
    world.lose(second)
    assert world.code(1) is ErrorCode.REPLICA_CRASHED
    assert culprit.request.suspect
    world.join()
    while world.sent:
        world.answer(next(iter(world.sent)))
    assert sorted(n for n, o in world.outcomes.items() if isinstance(o, Answered)) == [2, 3, 4]


def test_a_suspect_lost_before_its_turn_is_innocent() -> None:
    world = World()
    first = world.join()
    world.submit(1)
    second = world.join()
    world.lose(first)
    world.lose(second)
    world.join()
    (command,) = world.sent.values()
    assert command.request.suspect
    world.answer(command.request.attempt_id)
    assert isinstance(world.outcomes[1], Answered)


def test_without_a_replica_a_call_waits_and_is_then_told() -> None:
    world = World(DispatchLimits(replica_wait_s=2.0))
    world.submit(1)
    assert world.dispatch.next_deadline() == 2.0
    world.advance(2.0)
    assert world.code(1) is ErrorCode.NO_READY_REPLICA


def test_a_call_that_waited_goes_to_the_replica_that_comes() -> None:
    world = World()
    world.submit(1)
    world.advance(1.0)
    world.join()
    assert [c.request.budget_us for c in world.sent.values()] == [9_000_000]


def test_a_silent_replica_is_not_sent_calls() -> None:
    world = World()
    world.join()
    world.now += 2.0
    world.submit(1)
    assert not world.sent


def test_a_draining_replica_sends_the_call_to_the_version_that_is_routed_now() -> None:
    world = World()
    world.join("1")
    world.submit(1)
    world.join("2")
    world.routes.take_table(table(2, "2"))
    world.nack(1, NackReason.DRAINING)
    (command,) = world.sent.values()
    assert command.replica == "r2"
    world.answer(command.request.attempt_id)
    outcome = world.outcomes[1]
    assert isinstance(outcome, Answered)
    assert outcome.answer.version == "2"


def test_a_pinned_call_does_not_change_its_version() -> None:
    world = World()
    world.join("1")
    world.submit(1, version="1")
    world.join("2")
    world.routes.take_table(table(2, "2"))
    world.nack(1, NackReason.DRAINING)
    assert world.code(1) is ErrorCode.VERSION_NOT_FOUND


def test_when_every_replica_is_full_the_call_is_shed() -> None:
    world = World()
    world.join()
    world.join()
    world.submit(1)
    for _ in range(2):
        world.nack(next(iter(world.sent)), NackReason.FULL)
    assert world.code(1) is ErrorCode.QUEUE_FULL


def test_a_cancelled_call_is_cancelled_at_its_replica() -> None:
    world = World()
    world.join()
    world.submit(1)
    world.do(world.dispatch.cancel(1))
    assert world.cancels == [1]
    assert not world.outcomes
    assert world.dispatch.final("r1", Final(1), world.now) == []
    assert world.dispatch.counters.late == 1


def test_a_stream_that_began_is_never_run_again() -> None:
    world = World()
    name = world.join()
    world.join()
    world.submit(1)
    command = world.sent[1]
    world.do(world.dispatch.chunk(command.replica, Chunk(1, 0, (X,))))
    assert world.streamed == [1]
    assert name
    world.lose(command.replica)
    assert world.code(1) is ErrorCode.REPLICA_CRASHED


def test_unknown_models_and_versions_are_refused() -> None:
    world = World()
    with pytest.raises(PenstockError, match="version '9' of model 'm' is not deployed") as failure:
        world.submit(1, version="9")
    assert failure.value.code is ErrorCode.VERSION_NOT_FOUND
    with pytest.raises(PenstockError, match="model 'n' is not deployed"):
        world.dispatch.submit(2, InferenceCall("n", None, (X,)), 0.0)
    assert len(world.dispatch) == 0


def test_bytes_of_open_calls_are_bounded() -> None:
    world = World(DispatchLimits(queue_bytes_limit=6))
    world.submit(1)
    with pytest.raises(PenstockError, match="bytes"):
        world.submit(2)


def test_the_less_loaded_of_two_is_chosen() -> None:
    world = World()
    world.join()
    world.join()
    slow = world.replicas.get("r1")
    assert slow is not None
    slow.reported(50, 8, 1000)
    fast = world.replicas.get("r2")
    assert fast is not None
    fast.reported(0, 0, 1000)
    for number in range(10):
        world.submit(number)
    assert {command.replica for command in world.sent.values()} == {"r2"}

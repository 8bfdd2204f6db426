"""Every call resolves exactly once, whatever replicas do."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.gateway.dispatch.attempts import EXTRA
from penstock.gateway.dispatch.call_state import CallState
from penstock.gateway.dispatch.commands import (
    Answered,
    CallFailed,
)
from penstock.gateway.dispatch.counters import ShedReason
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.inference.types import InferenceCall
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.messages import Chunk, Final, Load, NackReason
from tests.support.examples import examples
from tests.unit.gateway.dispatch_world import World, X, table

REPLIES = [
    "answer",
    "late",
    "turn",
    "part",
    *NackReason,
    ErrorCode.MODEL_ERROR,
    ErrorCode.OUT_OF_MEMORY,
    ErrorCode.DEADLINE_EXCEEDED,
]

ATTEMPTS = {
    CallState.PARKED: (False, False),
    CallState.IN_FLIGHT: (True, False),
    CallState.RACING: (True, True),
    CallState.STREAMING: (True, False),
}
"""The states of calls between events, and whether they have a first attempt, and a hedge."""


class Dispatching(RuleBasedStateMachine):
    """Calls, replicas, answers, losses and time in any order."""

    def __init__(self) -> None:
        super().__init__()
        retry_codes = frozenset({ErrorCode.OUT_OF_MEMORY})
        limits = DispatchLimits(
            queue_limit=20, replica_wait_s=2.0, attempts_max=6, retry_codes=retry_codes
        )
        self.world = World(limits, hedge=50.0)
        self.open: dict[int, float] = {}
        self.losses: dict[int, int] = {}
        self.names: list[str] = []
        self.count = 0
        self.generation = 1
        self.cancelled: set[int] = set()

    @rule(timeout_s=st.floats(0.1, 5.0))
    def submit(self, timeout_s: float) -> None:
        self.count += 1
        sheds = self.world.dispatch.counters.sheds
        try:
            self.world.submit(self.count, timeout_s)
        except PenstockError:
            assert len(self.world.dispatch) == 20 or sheds[ShedReason.BACKLOG]
            return
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

    @rule(data=st.data(), how=st.sampled_from(REPLIES))
    def reply(self, data: st.DataObject, how: str | NackReason | ErrorCode) -> None:
        if not self.world.sent:
            return
        attempt = data.draw(st.sampled_from(sorted(self.world.sent)))
        if isinstance(how, NackReason):
            self.world.nack(attempt, how)
        elif isinstance(how, ErrorCode):
            self.world.fail(attempt, how)
        elif how == "answer":
            self.world.answer(attempt, data.draw(st.integers(0, 10**6)))
        elif how == "turn":
            self.world.take_turn(attempt)
        elif how == "part":
            chunk = Chunk(attempt, 0, (X,))
            self.world.do(self.world.dispatch.chunk(self.world.sent[attempt].replica, chunk))
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
        self.world.routes.take_table(table(self.generation, version, hedge=50.0))
        self.world.do(self.world.dispatch.routes_changed(self.world.now))

    @invariant()
    def no_call_outlives_its_deadline(self) -> None:
        for number, deadline in self.open.items():
            if deadline <= self.world.now:
                assert number in self.world.outcomes or number in self.cancelled

    @invariant()
    def every_open_call_is_counted(self) -> None:
        live = set(self.open) - set(self.world.outcomes) - self.cancelled
        assert len(self.world.dispatch) == len(live)
        assert sum(model.open for model in self.world.dispatch.models()) == len(live)
        rows = [r.admission.open_rows for r in self.world.replicas.revisions()]
        assert sum(rows) == len(live)

    @invariant()
    def a_call_has_two_attempts_at_most_at_different_replicas(self) -> None:
        extra = 0
        holders: dict[int, list[str]] = {}
        for attempt_id, attempt in self.world.dispatch._in_flight._attempts.items():
            assert attempt_id in self.world.sent
            where = holders.setdefault(attempt.call.id, [])
            assert attempt.replica.id not in where
            where.append(attempt.replica.id)
            extra += attempt.reason in EXTRA
        assert all(len(where) <= 2 for where in holders.values())
        assert extra == sum(model.throttle.extra for model in self.world.dispatch.models())

    @invariant()
    def every_call_is_in_a_state_that_its_attempts_bear_out(self) -> None:
        parked = self.world.dispatch._parked._calls
        for call in self.world.dispatch._calls.values():
            both = (call.attempt is not None, call.hedge is not None)
            assert both == ATTEMPTS[call.state]
            assert (call.state is CallState.PARKED) == (call.id in parked)

    @invariant()
    def one_of_a_replicas_calls_is_hedged_at_each_other(self) -> None:
        attempts = self.world.dispatch._in_flight._attempts.values()
        hedges = [(each.source.id, each.replica.id) for each in attempts if each.source]
        assert len(hedges) == len(set(hedges))
        noted = {(one.id, other) for one in self.world.replicas for other in one.hedged_at}
        here = {replica.id for replica in self.world.replicas}
        assert noted == {pair for pair in hedges if pair[0] in here}

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
TestDispatching.settings = examples(150, stateful_step_count=50)


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


def submit_with_priorities(world: World, *priorities: int) -> None:
    for number, priority in enumerate(priorities):
        request = InferenceCall("m", None, (X,), priority=priority, timeout_s=10.0)
        world.do(world.dispatch.submit(number, request, world.now))


def sent_priority(world: World) -> int:
    """Of the one attempt that is in flight."""
    (command,) = world.sent.values()
    return command.request.priority


@pytest.mark.parametrize("back_first", [True, False])
def test_suspects_run_by_priority(back_first: bool) -> None:
    world = World()
    first = world.join()
    submit_with_priorities(world, 5, 9, 1, 5)
    if back_first:
        world.join()
    world.lose(first)
    if not back_first:
        world.join()
    order = []
    while world.sent:
        order.append(sent_priority(world))
        world.answer(*world.sent)
    assert order == [1, 5, 5, 9]


def test_suspects_that_wait_for_anothers_look_again_by_priority() -> None:
    world = World()
    first = world.join()
    submit_with_priorities(world, 5, 9, 1)
    world.lose(first)
    world.join()
    while world.sent:  # another gateway's suspect is there
        world.nack(next(iter(world.sent)), NackReason.SUSPECT_BUSY)
    assert world.dispatch.parked == 3
    world.advance(1.0)
    assert sent_priority(world) == 1


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


def test_a_stream_that_its_replica_then_refuses_is_not_run_again_either() -> None:
    world = World()
    world.join()
    world.submit(1)
    world.join()
    drains = world.sent[1].replica
    world.do(world.dispatch.chunk(drains, Chunk(1, 0, (X,))))
    world.nack(1, NackReason.DRAINING)
    assert not world.sent
    assert world.code(1) is ErrorCode.INTERNAL
    for call_id in range(2, 12):
        world.submit(call_id)
    assert drains not in {each.replica for each in world.sent.values()}


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
    slow.reported(Load(50, 8, 1000))
    fast = world.replicas.get("r2")
    assert fast is not None
    fast.reported(Load(0, 0, 1000))
    for number in range(10):
        world.submit(number)
    assert {command.replica for command in world.sent.values()} == {"r2"}


def test_a_call_whose_request_cannot_be_encoded_fails_at_once_and_alone() -> None:
    world = World()
    world.join()
    world.submit(1)
    world.submit(2)
    first, second = sorted(world.sent)
    world.do(world.dispatch.not_encoded(first, world.sent.pop(first).replica, world.now))
    failed = world.outcomes[1]
    assert isinstance(failed, CallFailed)
    assert failed.error.code is ErrorCode.INTERNAL
    world.answer(second)
    assert set(world.outcomes) == {1, 2}
    assert len(world.dispatch) == 0


def test_a_call_that_failed_names_the_attempts_that_it_failed_with() -> None:
    world = World(DispatchLimits(retry_codes=frozenset({ErrorCode.MODEL_ERROR})))
    world.join(worker="w1")
    world.join(worker="w2")
    world.submit(1)
    first = world.sent[1].replica
    world.fail(1, ErrorCode.MODEL_ERROR)
    second = world.sent[2].replica
    world.fail(2, ErrorCode.MODEL_ERROR)
    outcome = world.outcomes[1]
    assert isinstance(outcome, CallFailed)
    assert [(each.attempt, each.replica) for each in outcome.error.failed] == [
        (1, first),
        (2, second),
    ]
    assert {each.worker for each in outcome.error.failed} == {"w1", "w2"}


def test_a_call_whose_time_is_over_names_the_replica_that_did_not_answer() -> None:
    world = World()
    name = world.join()
    world.submit(1, timeout_s=1.0)
    world.now = 1.0
    world.do(world.dispatch.advance(world.now))
    outcome = world.outcomes[1]
    assert isinstance(outcome, CallFailed)
    assert [each.replica for each in outcome.error.failed] == [name]


def test_a_call_that_failed_names_the_version_that_was_to_answer() -> None:
    world = World()
    world.join("1")
    world.submit(1)
    world.fail(1, ErrorCode.MODEL_ERROR)
    outcome = world.outcomes[1]
    assert isinstance(outcome, CallFailed)
    assert outcome.error.version == "1"


def test_a_call_that_moved_to_another_version_names_that_one() -> None:
    world = World()
    world.join("1")
    world.submit(1)
    world.routes.take_table(table(2, "2"))
    world.nack(1, NackReason.DRAINING)
    world.join("2")
    world.fail(2, ErrorCode.MODEL_ERROR)
    outcome = world.outcomes[1]
    assert isinstance(outcome, CallFailed)
    assert outcome.error.version == "2"

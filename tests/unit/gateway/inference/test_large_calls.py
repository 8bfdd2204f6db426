"""Requests in pieces: rows in order, turns, versions, failures, and nothing left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock.gateway.dispatch.dispatch import Dispatch
from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.dispatch.replicas import Replica, Replicas
from penstock.gateway.inference.large_calls import LargeCalls, OnOutcome, rows_per_piece
from penstock.gateway.inference.port import CallOutcome
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.gateway.routing.traffic import Routes
from penstock.shared.contracts.deployment import ModelInterface, ParameterSpec
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.clock import FakeClock
from penstock.shared.wire.tensors import Tensor, array_from_tensor, tensor_from_array
from tests.support.examples import examples
from tests.unit.gateway.dispatch_world import table

BATCH = 4
X = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
INTERFACE = ModelInterface(inputs=(X,), outputs=(X,), max_batch_size=BATCH, platform="test")


def numbers(rows: int, first: float = 0.0) -> Tensor:
    return tensor_from_array(
        "x", np.arange(first, first + 2 * rows, dtype=np.float32).reshape(rows, 2)
    )


def call(rows: int, first: float = 0.0, **changes: object) -> InferenceCall:
    made = {"model": "m", "version": None, "inputs": (numbers(rows, first),), "timeout_s": 10.0}
    return InferenceCall(**{**made, **changes})  # type: ignore[arg-type]


@dataclass
class Alarm:
    at: float
    ring: Callable[[], None]
    off: bool = False

    def cancel(self) -> None:
        self.off = True


@dataclass
class Out:
    """A piece that was submitted."""

    call: InferenceCall
    on_outcome: OnOutcome

    def answer(self, version: str = "1", outputs: tuple[Tensor, ...] | None = None) -> None:
        given = self.call.inputs if outputs is None else outputs
        self.on_outcome(InferenceAnswer("m", version, given, 0.001, 0.002, 1, 4))


@dataclass
class World:
    """Large calls with replicas, whose pieces are answered by hand."""

    held: HeldBytes = field(default_factory=HeldBytes)

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.routes, self.replicas = Routes(), Replicas(silence_s=1e9)
        limits = DispatchLimits()
        self.dispatch = Dispatch(limits, self.routes, self.replicas, random.Random(1), self.held)
        self.routes.take_table(table(1, "1"))
        self.out: dict[int, Out] = {}
        self.canceled: list[int] = []
        self.alarms: list[Alarm] = []
        self.outcomes: dict[int, CallOutcome] = {}
        self.refuse: PenstockError | None = None
        self.large = LargeCalls(
            self,
            self.dispatch,
            routes=self.routes,
            replicas=self.replicas,
            clock=self.clock,
            later=self.later,
            held=self.held,
        )
        self._next = 1000

    def later(self, delay_s: float, ring: Callable[[], None]) -> Alarm:
        self.alarms.append(Alarm(self.clock.monotonic() + delay_s, ring))
        return self.alarms[-1]

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for alarm in list(self.alarms):
            if not alarm.off and alarm.at <= self.clock.monotonic():
                alarm.off = True
                alarm.ring()

    def join(self, name: str, version: str = "1", interface: ModelInterface = INTERFACE) -> Replica:
        replica = Replica(
            name, "w", "m", version, f"m/{version}", interface, self.clock.monotonic()
        )
        self.replicas.add(replica)
        return replica

    def submit_piece(self, call: InferenceCall, on_outcome: OnOutcome) -> int:
        if self.refuse is not None:
            raise self.refuse
        self._next += 1
        number = self._next

        def told(outcome: CallOutcome) -> None:
            if self.out.pop(number, None) is not None:
                on_outcome(outcome)

        self.out[number] = Out(call, told)
        return number

    def cancel(self, call_id: int) -> None:
        self.out.pop(call_id, None)
        self.canceled.append(call_id)

    def submit(self, call_id: int, call: InferenceCall) -> None:
        assert self.large.takes(call)
        self.large.submit(
            call_id, call, lambda outcome: self.outcomes.__setitem__(call_id, outcome)
        )

    def first(self) -> Out:
        return next(iter(self.out.values()))

    def answer_all(self) -> None:
        while self.out:
            self.first().answer()

    def rows(self, call_id: int) -> list[list[float]]:
        outcome = self.outcomes[call_id]
        assert isinstance(outcome, InferenceAnswer), outcome
        return array_from_tensor(outcome.outputs[0]).tolist()  # type: ignore[no-any-return]

    def error(self, call_id: int) -> PenstockError:
        outcome = self.outcomes[call_id]
        assert isinstance(outcome, PenstockError)
        return outcome

    def nothing_is_left(self) -> None:
        assert not self.large
        assert not self.out
        assert self.held.total == 0
        assert all(alarm.off for alarm in self.alarms)
        assert [model.open for model in self.dispatch.models()] in ([], [0])
        for revision in self.replicas.revisions():
            assert "0 rows open" in repr(revision.admission)
            assert revision.admission.large_rows == 0


@pytest.fixture
def world() -> World:
    made = World()
    made.join("r1")
    return made


def test_it_is_answered_as_one_in_order(world: World) -> None:
    world.submit(1, call(11))
    world.answer_all()
    assert world.rows(1) == array_from_tensor(numbers(11)).tolist()
    outcome = world.outcomes[1]
    assert isinstance(outcome, InferenceAnswer)
    assert (outcome.version, outcome.batch_rows, outcome.attempts) == ("1", 4, 1)
    world.nothing_is_left()


def test_pieces_are_batches_with_what_is_left_of_the_deadline(world: World) -> None:
    world.submit(1, call(9, priority=3, parameters=(("temperature", 1.0),)))
    piece = world.first().call
    assert piece.inputs[0].shape == (4, 2)
    assert (piece.version, piece.priority, piece.piece) == ("1", 3, True)
    assert piece.parameters == (("temperature", 1.0),)
    assert piece.timeout_s == 10.0
    world.clock.advance(4.0)
    world.first().answer()
    assert world.first().call.timeout_s == pytest.approx(6.0)


def test_small_ones_are_not_cut(world: World) -> None:
    assert not world.large.takes(call(BATCH))
    assert world.large.takes(call(BATCH + 1))
    assert not world.large.takes(call(9, model="unknown"))


TWO = INTERFACE.model_copy(update={"parameters": (ParameterSpec(name="t", datatype="FP64"),)})


@pytest.mark.parametrize(
    ("interface", "changes", "rows"),
    [
        (INTERFACE, {}, BATCH),
        (INTERFACE.model_copy(update={"max_batch_size": 0}), {}, 0),
        (TWO, {"parameters": (("t", 2.0),)}, 0),
        (TWO, {"parameters": (("unknown", 2.0),)}, BATCH),
        (INTERFACE.model_copy(update={"row_inputs": (("x",),)}), {}, BATCH),
        (INTERFACE.model_copy(update={"row_inputs": (("x", "y"),)}), {}, 0),
        (INTERFACE.model_copy(update={"row_inputs": ()}), {}, 0),
    ],
)
def test_rows_are_cut_where_they_were_found_to_be_independent(
    interface: ModelInterface, changes: dict[str, object], rows: int
) -> None:
    assert rows_per_piece(replace(call(9), **changes), interface) == rows  # type: ignore[arg-type]


def test_it_is_spread_over_the_replicas_one_piece_each(world: World) -> None:
    world.join("r2")
    world.join("r3")
    world.submit(1, call(100))
    world.submit(2, call(100, 500.0))
    assert len(world.out) == 3
    world.answer_all()
    assert world.rows(1) == array_from_tensor(numbers(100)).tolist()
    assert world.rows(2) == array_from_tensor(numbers(100, 500.0)).tolist()


def test_requests_take_turns_and_higher_classes_come_first(world: World) -> None:
    world.submit(1, call(12))
    world.submit(2, call(12, 100.0))
    world.submit(3, call(8, 200.0, priority=1))
    order = []
    while world.out:
        order.append(int(array_from_tensor(world.first().call.inputs[0])[0, 0] // 100))
        world.first().answer()
    assert order == [0, 2, 2, 0, 1, 0, 1, 1]


def test_a_failure_says_which_rows_and_ends_the_others(world: World) -> None:
    world.join("r2")
    world.submit(1, call(12))
    first, second = list(world.out.values())
    first.answer()
    failure = PenstockError(ErrorCode.MODEL_ERROR, "it raised ValueError")
    failure.attempts = 2
    second.on_outcome(failure)
    error = world.error(1)
    assert error.code is ErrorCode.MODEL_ERROR
    assert error.message == "rows 4 to 7 of 12 (from 0): it raised ValueError"
    assert error.attempts == 2
    assert len(world.canceled) == 1
    world.nothing_is_left()


def test_a_piece_that_is_not_accepted_fails_it(world: World) -> None:
    world.refuse = PenstockError(ErrorCode.SHUTTING_DOWN, "it drains")
    world.submit(1, call(9))
    assert world.error(1).code is ErrorCode.SHUTTING_DOWN
    world.nothing_is_left()


def test_one_deadline(world: World) -> None:
    world.submit(1, call(9))
    world.first().answer()
    world.pass_time(10.1)
    error = world.error(1)
    assert error.code is ErrorCode.DEADLINE_EXCEEDED
    assert error.message == "no answer within 10.000 s: 4 of 9 rows were done"
    world.nothing_is_left()


def test_a_piece_that_is_late_says_the_same(world: World) -> None:
    world.submit(1, call(9))
    world.first().on_outcome(PenstockError(ErrorCode.DEADLINE_EXCEEDED, "no answer within 6 s"))
    assert world.error(1).message == "no answer within 10.000 s: 0 of 9 rows were done"


def test_what_has_no_turn_in_time_is_not_begun(world: World) -> None:
    world.routes.take_table(table(2, "1", queue_timeout_ms=500))
    world.submit(1, call(9))
    world.submit(2, call(9))
    world.pass_time(0.6)
    assert world.error(2).code is ErrorCode.QUEUE_TIMEOUT
    world.answer_all()
    assert len(world.rows(1)) == 9
    world.nothing_is_left()


def test_canceled_as_one(world: World) -> None:
    world.join("r2")
    world.submit(1, call(20))
    assert world.large.cancel(1)
    assert not world.large.cancel(1)
    assert len(world.canceled) == 2
    assert not world.outcomes
    world.nothing_is_left()


def test_a_version_that_goes_is_followed_from_the_first_row_on(world: World) -> None:
    world.join("r2", "2")
    world.submit(1, call(9))
    world.first().answer()
    world.routes.take_table(table(2, "2"))
    gone = PenstockError(ErrorCode.VERSION_NOT_FOUND, "version '1' is not deployed")
    world.first().on_outcome(gone)
    versions = []
    while world.out:
        versions.append(world.first().call.version)
        world.first().answer("2")
    assert versions == ["2", "2", "2"]
    assert world.rows(1) == array_from_tensor(numbers(9)).tolist()
    world.nothing_is_left()


def test_a_version_that_the_client_named_is_not_replaced(world: World) -> None:
    world.submit(1, call(9, version="1"))
    world.routes.take_table(table(2, "2"))
    world.first().on_outcome(PenstockError(ErrorCode.VERSION_NOT_FOUND, "it is not deployed"))
    assert world.error(1).code is ErrorCode.VERSION_NOT_FOUND


def test_a_model_that_turns_out_to_mix_rows_runs_all_of_them_at_once(world: World) -> None:
    replica = world.replicas.get("r1")
    assert replica is not None
    world.submit(1, call(9))
    replica.interface = INTERFACE.model_copy(update={"max_batch_size": 0})
    world.replicas.revision("m/1").announced()
    world.first().answer()
    assert world.first().call.inputs[0].shape == (9, 2)
    world.first().answer()
    assert len(world.rows(1)) == 9
    world.nothing_is_left()


def test_what_is_found_out_while_the_last_pieces_run_counts_too(world: World) -> None:
    replica = world.replicas.get("r1")
    assert replica is not None
    world.submit(1, call(8))
    world.first().answer()
    replica.interface = INTERFACE.model_copy(update={"max_batch_size": 0})
    world.replicas.revision("m/1").announced()
    world.first().answer()  # of the last rows
    assert world.first().call.inputs[0].shape == (8, 2)
    world.first().answer()
    assert len(world.rows(1)) == 8
    world.nothing_is_left()


def test_a_version_of_which_nothing_is_known_runs_all_rows_at_once(world: World) -> None:
    world.submit(1, call(9))
    world.routes.take_table(table(2, "2"))
    world.first().on_outcome(PenstockError(ErrorCode.VERSION_NOT_FOUND, "it is not deployed"))
    piece = world.first().call
    assert (piece.version, piece.inputs[0].shape) == ("2", (9, 2))
    world.first().answer("2")
    assert len(world.rows(1)) == 9
    world.nothing_is_left()


def test_answers_that_do_not_fit_together_are_never_joined(world: World) -> None:
    world.submit(1, call(9))
    world.first().answer()
    world.first().answer(outputs=(numbers(3),))  # of four rows
    assert world.first().call.inputs[0].shape == (9, 2)
    world.first().answer(outputs=(numbers(2),))  # whatever it is, as it is
    assert len(world.rows(1)) == 2
    world.nothing_is_left()


def test_an_answer_that_is_larger_than_what_may_be_held_is_refused() -> None:
    world = World(HeldBytes(bytes_max=1_000_000, small_share_bytes=100_000))
    world.join("r1")
    world.submit(1, call(9))
    huge = tensor_from_array("y", np.zeros((4, 100_000), np.float32))
    world.first().answer(outputs=(huge,))
    assert world.error(1).code is ErrorCode.QUEUE_FULL
    world.nothing_is_left()


class Storm(RuleBasedStateMachine):
    """Whatever happens, each request ends once, with its own rows or an error."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.world.join("r0")
        self.sizes: dict[int, int] = {}
        self.canceled: set[int] = set()

    @rule(rows=st.integers(BATCH + 1, 30), priority=st.integers(1, 9))
    def submit(self, rows: int, priority: int) -> None:
        number = len(self.sizes)
        self.sizes[number] = rows
        try:
            self.world.submit(number, call(rows, 1000.0 * number, priority=priority))
        except PenstockError as error:
            self.world.outcomes[number] = error

    @rule()
    def join(self) -> None:
        self.world.join(f"r{len(list(self.world.replicas))}")

    @precondition(lambda self: self.world.out)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(list(self.world.out.values()))).answer()

    @precondition(lambda self: self.world.out)
    @rule(data=st.data(), code=st.sampled_from(list(ErrorCode)))
    def fail(self, data: st.DataObject, code: ErrorCode) -> None:
        out = data.draw(st.sampled_from(list(self.world.out.values())))
        out.on_outcome(PenstockError(code, "no"))

    @precondition(lambda self: self.sizes)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.sizes)))
        if self.world.large.cancel(number):
            assert number not in self.world.outcomes
            self.canceled.add(number)

    @rule(seconds=st.floats(0.0, 4.0))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def no_more_is_out_than_there_are_replicas(self) -> None:
        assert len(self.world.out) <= len(list(self.world.replicas))

    @invariant()
    def answers_are_their_own(self) -> None:
        for number, outcome in self.world.outcomes.items():
            if isinstance(outcome, InferenceAnswer):
                expected = array_from_tensor(numbers(self.sizes[number], 1000.0 * number))
                assert self.world.rows(number) == expected.tolist()

    def teardown(self) -> None:
        self.world.answer_all()
        assert set(self.world.outcomes) | self.canceled == set(self.sizes)
        self.world.nothing_is_left()


TestStorm = Storm.TestCase
TestStorm.settings = examples(100, stateful_step_count=40)

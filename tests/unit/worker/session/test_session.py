"""A replica's behaviour without its I/O."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.shared.contracts.deployment import ModelInterface, ParameterSpec
from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import (
    Alone,
    Cancel,
    Drain,
    Envelope,
    Final,
    Hello,
    Load,
    Message,
    Nack,
    NackReason,
    Probe,
    Proceed,
    Scalar,
    SuspectTurn,
)
from penstock.shared.wire.messages import Request as WireRequest
from penstock.shared.wire.tensors import Tensor, tensor_from_array
from penstock.worker.job_line.messages import JOBS, Job
from penstock.worker.session.batching import BatchLimits
from penstock.worker.session.commands import Command, End, Execute, Misfit, OutOfMemory, Send
from penstock.worker.session.draining import FAREWELL_S, GIVE_BACK_S
from penstock.worker.session.latency_model import TYPICAL_AFTER, LatencyModel
from penstock.worker.session.outcomes import Completed, Failed, FailureKind
from penstock.worker.session.run_limits import RunLimits
from penstock.worker.session.session import Session
from penstock.worker.session.suspect_turns import SUSPECT_TURN_S

INTERFACE = ModelInterface(
    inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 1)),),
    outputs=(TensorSpec(name="y", datatype="FP32", shape=(-1, 1)),),
    max_batch_size=4,
    platform="test",
)
RUN_LIMITS = RunLimits()
HELLO = Hello("replica-1", "worker", "m", "1", "m/1-a", INTERFACE.model_dump_json().encode(), b"")


CANCEL_GRACE_S = 2.0


def session(queue_rows_max: int = 100, run_limits: RunLimits = RUN_LIMITS) -> Session:
    limits = BatchLimits(4, 0.0, queue_rows_max)
    return Session(
        HELLO,
        INTERFACE,
        limits,
        LatencyModel(),
        run_limits,
        job_cancel_grace_s=CANCEL_GRACE_S,
    )


def request(
    number: int,
    *,
    rows: int = 1,
    budget_s: float = 10,
    queue_budget_s: float = 0,
    suspect: bool = False,
) -> Message:
    tensor = tensor_from_array("x", np.full((rows, 1), number, np.float32))
    return WireRequest(
        number,
        int(budget_s * 1e6),
        (tensor,),
        suspect=suspect,
        queue_budget_us=int(queue_budget_s * 1e6),
    )


def tell(live: Session, *messages: Message, now: float = 0.0, gateway: str = "g1") -> list[Command]:
    commands = live.received("g", Envelope(gateway, messages), now)
    return commands + live.advance(now)


def executing(commands: list[Command]) -> list[int]:
    (execute,) = [command for command in commands if isinstance(command, Execute)]
    return [item.payload.attempt_id for item in execute.items]


def sent(commands: list[Command], kind: type[Message]) -> list[Message]:
    return [c.message for c in commands if isinstance(c, Send) and isinstance(c.message, kind)]


def complete(live: Session, count: int, now: float = 0.0, infer_s: float = 0.001) -> list[Command]:
    output = Tensor("y", "FP32", (1, 1), b"\0\0\0\0")
    return live.executed(Completed(((output,),) * count, infer_s)) + live.advance(now)


def fail(
    live: Session,
    kind: FailureKind = FailureKind.INPUT,
    now: float = 0.0,
    infer_s: float = 0.001,
) -> list[Command]:
    return live.executed(Failed(kind, infer_s)) + live.advance(now)


def test_requests_of_one_turn_share_a_batch_and_each_gets_its_answer() -> None:
    live = session()
    assert executing(tell(live, request(1), request(2), request(3))) == [1, 2, 3]
    finals = sent(complete(live, 3), Final)
    assert [final.attempt_id for final in finals if isinstance(final, Final)] == [1, 2, 3]


def test_the_next_batch_gathers_while_one_runs() -> None:
    live = session()
    tell(live, request(1))
    assert not [c for c in tell(live, request(2), request(3)) if isinstance(c, Execute)]
    assert executing(complete(live, 1)) == [2, 3]


def test_a_poisoned_input_fails_alone() -> None:
    live = session()
    tell(live, *[request(number) for number in range(1, 5)])
    finals: dict[int, Final] = {}
    commands = fail(live)
    while runs := [c for c in commands if isinstance(c, Execute)]:
        numbers = [item.payload.attempt_id for item in runs[0].items]
        commands = fail(live) if 3 in numbers else complete(live, len(numbers))
        for final in sent(commands, Final):
            assert isinstance(final, Final)
            assert final.attempt_id not in finals
            finals[final.attempt_id] = final
    assert sorted(finals) == [1, 2, 3, 4]
    failed = {number for number, final in finals.items() if final.failure}
    assert failed == {3}
    assert finals[3].failure is not None
    assert finals[3].failure.code is ErrorCode.MODEL_ERROR


def test_a_batch_whose_outputs_are_not_its_rows_runs_one_by_one_and_nothing_merges_any_more() -> (
    None
):
    live = session()
    tell(live, request(1), request(2))
    tell(live, request(3), request(4))
    commands = live.executed(Failed(FailureKind.MISFIT, 0.001, "3 rows for 2"))
    assert [each.reason for each in commands if isinstance(each, Misfit)] == ["3 rows for 2"]
    assert executing(live.advance(0.0)) == [1]
    assert executing(complete(live, 1)) == [2]
    output = Tensor("y", "FP32", (2, 1), b"\0" * 8)
    commands = live.executed(Completed([(output,)], 0.001, misfit="2 rows for 1"))
    assert not any(isinstance(each, Misfit) for each in commands)
    (final,) = sent(commands, Final)
    assert isinstance(final, Final)
    assert final.outputs == (output,)
    assert executing(live.advance(0.0)) == [3]
    assert executing(complete(live, 1)) == [4]


def test_a_lowered_interface_is_told_to_every_gateway() -> None:
    live = session()
    tell(live, request(1))
    lowered = INTERFACE.model_copy(update={"max_batch_size": 0})
    (told,) = live.lowered(lowered, 0)
    assert isinstance(told.message, Hello)
    assert ModelInterface.model_validate_json(told.message.interface) == lowered
    assert live.lowered(lowered, 0) == [], "they know it"


def test_calls_that_wait_are_merged_no_more_once_the_model_is_held_to_less() -> None:
    live = session()
    tell(live, request(1))
    tell(live, *[request(number) for number in range(2, 8)])
    assert live.lowered(INTERFACE, 2) == []
    assert executing(complete(live, 1)) == [2, 3]
    live.lowered(INTERFACE.model_copy(update={"max_batch_size": 0}), 0)
    assert executing(complete(live, 2)) == [4]
    live.lowered(INTERFACE, 4)
    assert executing(complete(live, 1)) == [5], "it is never raised"


def test_out_of_memory_halves_the_batch_and_loses_nothing() -> None:
    live = session()
    tell(live, *[request(number) for number in range(1, 5)])
    assert executing(fail(live, FailureKind.OUT_OF_MEMORY)) == [1, 2]
    assert executing(complete(live, 2)) == [3, 4]
    complete(live, 2)
    assert executing(tell(live, *[request(number) for number in range(5, 9)])) == [5, 6]


def test_each_time_that_memory_lowers_the_size_of_batches_the_shell_is_told() -> None:
    live = session()
    tell(live, *[request(number) for number in range(1, 5)])
    told = []
    commands: list[Command] = [Execute((), "")]
    while any(isinstance(each, Execute) for each in commands):
        commands = fail(live, FailureKind.OUT_OF_MEMORY)
        told += [
            (each.rows, each.rows_together) for each in commands if isinstance(each, OutOfMemory)
        ]
    assert told == [(4, 2), (2, 1)]


def test_a_fatal_failure_ends_the_replica() -> None:
    live = session()
    tell(live, request(1))
    assert live.executed(Failed(FailureKind.FATAL, 0.0)) == [End(fatal=True)]


def test_what_expires_in_the_queue_is_answered_on_time_and_never_executed() -> None:
    live = session()
    tell(live, request(1))
    tell(live, request(2, budget_s=1.0))
    assert live.next_deadline() == 1.0
    (final,) = sent(live.advance(1.0), Final)
    assert isinstance(final, Final)
    assert final.failure is not None
    assert (final.attempt_id, final.failure.code) == (2, ErrorCode.DEADLINE_EXCEEDED)
    assert not [c for c in complete(live, 1, now=2.0) if isinstance(c, Execute)]


def failures(commands: list[Command]) -> list[tuple[int, ErrorCode]]:
    finals = [message for message in sent(commands, Final) if isinstance(message, Final)]
    return [(final.attempt_id, final.failure.code) for final in finals if final.failure]


def test_what_waits_too_long_is_answered_on_time_while_a_batch_runs_and_never_executed() -> None:
    live = session()
    tell(live, request(1))
    tell(live, request(2, queue_budget_s=1.0), request(3, queue_budget_s=20.0, budget_s=2.0))
    assert live.next_deadline() == 1.0
    assert live.advance(0.99) == []
    assert failures(live.advance(1.0)) == [(2, ErrorCode.QUEUE_TIMEOUT)]
    assert live.next_deadline() == 2.0
    assert failures(live.advance(2.0)) == [(3, ErrorCode.DEADLINE_EXCEEDED)]
    assert not [c for c in complete(live, 1, now=3.0) if isinstance(c, Execute)]
    assert live.counters.expired == 2


def test_what_was_begun_in_time_may_end_and_run_again_later() -> None:
    live = session()
    tell(live, *[request(n, queue_budget_s=1.0, budget_s=10.0) for n in (1, 2, 3, 4)])
    assert executing(fail(live, now=5.0)) == [1, 2]
    commands = complete(live, 2, now=8.0)
    assert (executing(commands), len(sent(commands, Final))) == ([3, 4], 2)
    commands = fail(live, now=11.0)
    assert failures(commands) == [(n, ErrorCode.DEADLINE_EXCEEDED) for n in (3, 4)]


def test_what_is_to_run_again_is_answered_on_time_while_the_rest_runs() -> None:
    live = session()
    tell(live, request(1), request(2), request(3), request(4, budget_s=20.0))
    assert executing(fail(live)) == [1, 2]
    assert live.next_deadline() == 10.0
    assert failures(live.advance(10.0)) == [(3, ErrorCode.DEADLINE_EXCEEDED)]
    assert live.next_deadline() == 20.0
    assert executing(complete(live, 2, now=10.5)) == [4]


def test_what_is_cancelled_before_it_runs_again_does_not() -> None:
    live = session()
    tell(live, *[request(number) for number in range(1, 5)])
    assert executing(fail(live)) == [1, 2]
    tell(live, Cancel(3))
    assert live.counters.cancelled == 1
    assert executing(complete(live, 2)) == [4]


def test_a_suspect_that_waits_too_long_for_its_turn_is_answered() -> None:
    live = session()
    tell(live, request(1, suspect=True, queue_budget_s=0.1))
    assert live.next_deadline() == 0.1
    assert failures(live.advance(0.1)) == [(1, ErrorCode.QUEUE_TIMEOUT)]
    assert tell(live, Proceed(1), now=0.1) == []


def test_a_batch_may_go_on_until_nobody_waits_for_it_and_a_grace() -> None:
    live = session(run_limits=RunLimits(abandoned_grace_s=30.0))
    assert (live.executing_since, live.batch_ends_by()) == (None, None)
    tell(live, request(1, budget_s=5), request(2, budget_s=8), now=1.0)
    assert (live.executing_since, live.batch_ends_by()) == (1.0, 39.0)
    complete(live, 2)
    assert (live.executing_since, live.batch_ends_by()) == (None, None)


def test_an_execution_timeout_counts_for_each_execution_anew() -> None:
    live = session(run_limits=RunLimits(execution_timeout_s=2.0))
    tell(live, request(1), request(2), now=1.0)
    assert live.batch_ends_by() == 3.0
    assert executing(fail(live, now=2.5)) == [1]
    assert live.batch_ends_by() == 4.5


def test_cancelled_requests_leave_the_queue_and_running_ones_are_not_answered() -> None:
    live = session()
    tell(live, request(1))
    tell(live, request(2), Cancel(2), Cancel(1), Cancel(99))
    assert live.queued_rows == 0
    assert sent(complete(live, 1), Final) == []
    assert live.counters.cancelled == 2


def test_suspects_are_held_one_at_a_time_and_run_alone_once_told_to_proceed() -> None:
    live = session()
    tell(live, request(1))
    commands = tell(live, request(2, suspect=True), request(3, suspect=True), request(4))
    assert sent(commands, Nack) == [Nack(3, NackReason.SUSPECT_BUSY)]
    commands = complete(live, 1)
    assert sent(commands, SuspectTurn) == [SuspectTurn(2)]
    assert not [c for c in commands if isinstance(c, Execute)]
    assert executing(tell(live, Proceed(2))) == [2]
    assert executing(complete(live, 1)) == [4]
    assert sent(complete(live, 1), Final) != []
    assert sent(tell(live, request(3, suspect=True)), SuspectTurn) == [SuspectTurn(3)]


def test_a_suspect_whose_gateway_is_silent_lets_the_others_pass() -> None:
    live = session()
    tell(live, request(1, suspect=True), request(2))
    assert live.next_deadline() == SUSPECT_TURN_S
    commands = live.advance(SUSPECT_TURN_S)
    assert sent(commands, Nack) == [Nack(1, NackReason.SUSPECT_BUSY)]
    assert executing(commands) == [2]
    assert tell(live, Proceed(1)) == []


def test_a_suspect_cancelled_in_its_turn_is_not_executed() -> None:
    live = session()
    tell(live, request(1, suspect=True), request(2))
    assert executing(tell(live, Cancel(1))) == [2]
    assert tell(live, Proceed(1)) == []


def test_a_full_queue_refuses() -> None:
    live = session(queue_rows_max=2)
    tell(live, request(1))
    commands = tell(live, request(2), request(3), request(4))
    assert sent(commands, Nack) == [Nack(4, NackReason.FULL)]


def test_draining_refuses_what_is_new_and_finishes_what_was_accepted() -> None:
    live = session()
    tell(live, request(1))
    tell(live, request(2))
    assert sent(live.drain(-FAREWELL_S), Drain) == [Drain()]
    assert sent(tell(live, request(3)), Nack) == [Nack(3, NackReason.DRAINING)]
    commands = complete(live, 1)
    assert executing(commands) == [2]
    assert complete(live, 1)[-1] == End(fatal=False)


def test_an_idle_replica_drains_at_once() -> None:
    live = session()
    live.drain(0.0)
    assert live.advance(0.0) == [End(fatal=False)]


def test_a_replica_that_drains_stays_to_refuse_what_was_on_its_way() -> None:
    live = session()
    tell(live, Probe())
    live.drain(0.0)
    assert live.advance(0.0) == []
    assert live.next_deadline() == FAREWELL_S
    assert sent(tell(live, request(1)), Nack) == [Nack(1, NackReason.DRAINING)]
    assert live.advance(FAREWELL_S) == [End(fatal=False)]


def test_a_gateway_is_greeted_once_per_life_and_its_old_requests_are_dropped() -> None:
    live = session()
    assert tell(live, Probe()) == [Send("g", HELLO)]
    assert tell(live, Probe(known=True)) == [Send("g", Load(0, 0, 0))]
    tell(live, request(1), request(2))
    tell(live, request(3))
    assert tell(live, Probe(), gateway="g2")[0] == Send("g", HELLO)
    assert live.queued_rows == 0
    assert sent(complete(live, 2), Final) == []


def test_a_gateway_that_gave_the_replica_up_is_greeted_again_and_owed_nothing() -> None:
    live = session()
    tell(live, Probe(), request(1))
    tell(live, request(2))
    assert tell(live, Probe(known=False)) == [Send("g", HELLO)]
    assert live.queued_rows == 0
    assert sent(complete(live, 1), Final) == []


def test_a_copied_request_runs_once() -> None:
    live = session()
    assert executing(tell(live, request(1), request(1))) == [1]
    assert sent(complete(live, 1), Final) != []
    assert live.queued_rows == 0


def test_requests_of_different_inner_shapes_or_parameters_never_share_a_batch() -> None:
    live = session()
    other = WireRequest(2, 10**7, (tensor_from_array("x", np.zeros((1, 2), np.float32)),))
    tuned = WireRequest(
        3, 10**7, (tensor_from_array("x", np.zeros((1, 1), np.float32)),), parameters=(("k", 1),)
    )
    assert executing(tell(live, request(1), other, tuned)) == [1]
    assert executing(complete(live, 1)) == [2]
    assert executing(complete(live, 1)) == [3]


def test_parameters_that_python_holds_for_equal_never_share_a_batch() -> None:
    live = session()
    tensors = (tensor_from_array("x", np.zeros((1, 1), np.float32)),)
    values: tuple[Scalar, ...] = (1, True, 1.0, "1", 1)
    asked = [
        WireRequest(number, 10**7, tensors, parameters=(("k", value),))
        for number, value in enumerate(values)
    ]
    assert executing(tell(live, *asked)) == [0, 4]


def test_what_no_trial_had_the_like_of_runs_alone_and_else_batches_form() -> None:
    interface = INTERFACE.model_copy(
        update={"parameters": (ParameterSpec(name="k", datatype="FP64"),)}
    )
    limits, tried = BatchLimits(4, 0.0, 100), (("x",), ("x", "y"))
    live = Session(HELLO, interface, limits, LatencyModel(), RUN_LIMITS, tried=tried)

    def of(number: int, names: str, **parameters: Scalar) -> WireRequest:
        tensors = tuple(tensor_from_array(name, np.zeros((1, 1), np.float32)) for name in names)
        return WireRequest(number, 10**7, tensors, parameters=tuple(parameters.items()))

    asked = [
        *[of(1, "x", k=1.0), of(2, "x", k=1.0)],  # a parameter that the model knows
        *[of(3, "z"), of(4, "z")],  # without an input that was there in the trial
        *[of(5, "x"), of(6, "x")],
        *[of(7, "yx"), of(8, "yx")],
        *[of(9, "x", other=1.0), of(10, "x", other=1.0)],  # which the model ignores
    ]
    ran = [executing(tell(live, *asked))]
    while sum(map(len, ran)) < len(asked):
        ran.append(executing(complete(live, len(ran[-1]))))
    assert ran == [[1], [2], [3], [4], [5, 6], [7, 8], [9, 10]]
    jobs = [Job(n, of(n, "x", k=1.0), None) for n in (11, 12)]
    complete(live, 2)
    assert executing(bring(live, *jobs)) == [11]


def test_batches_that_are_surely_short_are_called_so_unless_they_failed_before() -> None:
    live = session()
    shorts = []
    for number in range(TYPICAL_AFTER + 1):
        commands = tell(live, request(2 * number), request(2 * number + 1))
        shorts += [c.short for c in commands if isinstance(c, Execute)]
        complete(live, 2, infer_s=0.00001)
    assert shorts == [False] * TYPICAL_AFTER + [True]
    tell(live, *[request(number) for number in range(100, 104)])
    (again,) = [c for c in fail(live) if isinstance(c, Execute)]
    assert not again.short


def test_load_tells_rows_and_time_per_row_of_a_full_batch() -> None:
    live = session()  # a full batch has 4 rows
    tell(live, Probe(), request(1, rows=2))
    tell(live, request(2, rows=3))
    assert tell(live, Probe(known=True)) == [Send("g", Load(3, 2, 0))]
    live.executed(Completed(((),), 0.004))
    assert Send("g", Load(3, 0, 1000)) in live.received(
        "g", Envelope("g1", (Probe(known=True),)), 0.0
    )


def test_one_batch_that_took_very_long_is_soon_forgiven() -> None:
    live = session()
    tell(live, Probe(), request(1))
    complete(live, 1, infer_s=0.004)
    for number, infer_s in ((2, 10.0), (3, 0.004), (4, 0.004)):
        tell(live, request(number))
        complete(live, 1, infer_s=infer_s)
    (load,) = sent(tell(live, Probe(known=True)), Load)
    assert isinstance(load, Load)
    assert 1000 < load.row_us < 1500


def job(number: int, *, suspect: bool = False, timeout_s: float | None = None) -> Job:
    tensor = tensor_from_array("x", np.full((1, 1), number, np.float32))
    return Job(number, WireRequest(number, 0, (tensor,), suspect=suspect), timeout_s)


def bring(live: Session, *jobs: Job, now: float = 0.0) -> list[Command]:
    return live.jobs_arrived(jobs, now) + live.advance(now)


def job_answers(commands: list[Command]) -> list[Message]:
    return [c.message for c in commands if isinstance(c, Send) and c.link == JOBS]


def taught() -> Session:
    """A session that knows its batches to be short, and that gateways have spoken to."""
    live = session()
    tell(live, Probe(known=True))
    for number in range(100, 100 + 4 * TYPICAL_AFTER, 4):
        for count in (1, 2, 4):
            tell(live, *[request(number + each) for each in range(count)])
            complete(live, count, infer_s=1e-4)
    return live


def test_jobs_run_when_no_call_waits_and_fill_up_batches_of_calls() -> None:
    live = taught()
    assert executing(tell(live, request(1))) == [1]
    assert bring(live, job(11), job(12), job(13), job(14)) == []
    tell(live, request(2), request(3))
    commands = complete(live, 1)
    assert executing(commands) == [2, 3, 11, 12]
    commands = complete(live, 4)
    assert [answer.attempt_id for answer in sent(commands, Final) if isinstance(answer, Final)] == [
        2,
        3,
        11,
        12,
    ]
    assert [type(answer) for answer in job_answers(commands)] == [Final, Final]
    assert executing(commands) == [13, 14]
    assert live.counters.dispatched["jobs"] == 1


@pytest.mark.parametrize("kind", [FailureKind.INPUT, FailureKind.OUT_OF_MEMORY])
def test_a_batch_of_calls_whose_time_is_over_does_not_run_again(kind: FailureKind) -> None:
    live = session()
    tell(live, *[request(number, budget_s=1.0) for number in (1, 2, 3)], request(4, budget_s=5.0))
    commands = fail(live, kind, now=2.0)
    late = [(number, ErrorCode.DEADLINE_EXCEEDED) for number in (1, 2, 3)]
    assert failures(commands) == late
    assert executing(commands) == [4]
    live = session()
    tell(live, request(1, budget_s=1.0), request(2, budget_s=1.0))
    commands = fail(live, kind, now=2.0)
    assert failures(commands) == late[:2]
    assert not [c for c in commands if isinstance(c, Execute)]
    assert live.busyness().idle


@pytest.mark.parametrize("kind", [FailureKind.INPUT, FailureKind.OUT_OF_MEMORY])
def test_a_batch_of_jobs_that_took_longer_than_they_may_does_not_run_again(
    kind: FailureKind,
) -> None:
    for infer_s in (1.0, 0.9):
        live = taught()
        commands = bring(live, *[job(number, timeout_s=1.0) for number in (11, 12)])
        assert executing(commands) == [11, 12]
        commands = fail(live, kind, now=infer_s, infer_s=infer_s)
        if infer_s < 1.0:
            assert executing(commands) == [11]
        else:
            assert [number for number, _ in failures(commands)] == [11, 12]  # late, says the port
            assert not [c for c in commands if isinstance(c, Execute)]
            assert live.busyness().idle
            assert live.counters.failures == 2


def test_what_is_left_of_a_batch_runs_again() -> None:
    live = taught()
    commands = bring(live, *[job(number, timeout_s=1.0) for number in (11, 12)])
    live.job_gone(11, 0.5)
    commands = fail(live, now=0.9, infer_s=0.9)
    assert job_answers(commands) == [Nack(11, NackReason.DRAINING)]
    assert executing(commands) == [12]


def test_a_job_that_nobody_wants_leaves_the_queue_or_ends_unheard() -> None:
    live = session()
    assert executing(bring(live, job(11), job(12))) == [11]
    assert live.job_gone(12, 0.0)
    assert not live.job_gone(11, 0.0)
    assert live.job_gone(99, 0.0)
    assert len(job_answers(complete(live, 1))) == 1
    assert live.busyness().idle


def ends(commands: list[Command]) -> list[End]:
    return [command for command in commands if isinstance(command, End)]


REPLACED = End(fatal=False, replace=True)


def test_a_job_that_nobody_wants_and_that_goes_on_ends_its_replica_if_it_is_alone() -> None:
    live = session()
    tell(live, Probe(known=True))
    assert executing(bring(live, job(11))) == [11]
    assert live.next_deadline() is None
    assert not live.job_gone(11, 5.0)
    assert live.next_deadline() == 5.0 + CANCEL_GRACE_S
    assert live.advance(6.9) == []
    commands = live.advance(7.0)
    assert sent(commands, Drain)
    assert not ends(commands)
    late = tell(live, request(1), now=7.1)
    assert sent(late, Nack) == [Nack(1, NackReason.DRAINING)]  # it goes elsewhere
    assert ends(live.advance(7.0 + FAREWELL_S)) == [REPLACED]


def test_one_that_ends_by_itself_within_the_grace_is_only_unheard() -> None:
    live = session()
    bring(live, job(11))
    live.job_gone(11, 0.0)
    complete(live, 1, now=1.9)
    assert live.next_deadline() is None
    assert executing(bring(live, job(12), now=10.0)) == [12]
    assert not ends(live.advance(20.0))


def test_jobs_that_wait_behind_one_that_nobody_wants_are_given_back() -> None:
    live = session()
    bring(live, job(11), job(12))
    live.job_gone(11, 0.0)
    commands = live.advance(CANCEL_GRACE_S)
    assert job_answers(commands) == [Nack(12, NackReason.DRAINING)]
    assert ends(commands) == [REPLACED]


def test_a_call_that_waits_keeps_the_replica_of_a_job_that_nobody_wants() -> None:
    live = session()
    bring(live, job(11))
    live.job_gone(11, 0.0)
    tell(live, request(1, budget_s=5), now=1.0)
    assert not ends(live.advance(4.0))
    assert live.next_deadline() == 6.0
    expired = live.advance(6.1)  # the call has waited in vain: now the job is alone
    assert ends(expired + live.advance(6.1 + FAREWELL_S)) == [REPLACED]


def test_what_shares_a_batch_with_a_call_or_a_wanted_job_is_never_ended() -> None:
    live = taught()
    tell(live, request(1))
    bring(live, job(11))
    tell(live, request(2))
    assert executing(complete(live, 1)) == [2, 11]
    live.job_gone(11, 0.0)
    assert not ends(live.advance(5.0))
    other = taught()
    assert executing(bring(other, job(11), job(12))) == [11, 12]
    other.job_gone(11, 0.0)
    assert not ends(other.advance(5.0))
    other.job_gone(12, 5.0)
    other.advance(5.0 + CANCEL_GRACE_S)
    assert ends(other.advance(5.0 + CANCEL_GRACE_S + FAREWELL_S)) == [REPLACED]


def test_a_job_that_nobody_wants_does_not_run_again_when_its_batch_failed() -> None:
    live = taught()
    assert executing(bring(live, job(11), job(12))) == [11, 12]
    live.job_gone(12, 0.0)
    assert executing(fail(live)) == [11]
    commands = complete(live, 1)
    assert not [command for command in commands if isinstance(command, Execute)]
    assert live.busyness().idle


def test_a_drain_waits_for_no_job_that_nobody_wants() -> None:
    live = session()
    bring(live, job(11))
    live.drain(0.0, grace_s=30.0)
    live.job_gone(11, 1.0)
    assert not ends(live.advance(2.9))
    assert ends(live.advance(1.0 + CANCEL_GRACE_S)) == [End(fatal=False)]


def test_a_suspect_among_jobs_begins_at_once_or_is_refused() -> None:
    live = taught()
    commands = bring(live, job(11, suspect=True))
    assert executing(commands) == [11]
    assert sent(commands, Alone) == [Alone(active=True)]
    tell(live, request(1))
    commands = complete(live, 1)
    assert sent(commands, Alone) == [Alone(active=False)]
    assert executing(commands) == [1]
    assert bring(live, job(12, suspect=True)) == [Send(JOBS, Nack(12, NackReason.SUSPECT_BUSY))]


def test_draining_refuses_jobs_that_did_not_begin() -> None:
    live = session()
    bring(live, job(11), job(12))
    assert job_answers(live.drain(0.0)) == [Nack(12, NackReason.DRAINING)]
    assert job_answers(bring(live, job(13))) == [Nack(13, NackReason.DRAINING)]
    assert not [c for c in live.advance(1.0) if isinstance(c, End)]
    assert [c for c in complete(live, 1, now=2.0) if isinstance(c, End)] == [End(fatal=False)]


def test_a_job_that_outlasts_the_drain_is_left_alone_and_a_call_is_not() -> None:
    live = session()
    bring(live, job(11))
    live.drain(0.0, grace_s=10.0)
    assert live.next_deadline() == 10.0 - GIVE_BACK_S
    assert live.advance(8.9) == []
    assert live.advance(9.0) == [End(fatal=False)]
    other = session()
    tell(other, request(1, budget_s=60))
    other.drain(0.0, grace_s=10.0)
    assert other.advance(9.0) == []


def test_jobs_may_run_as_long_as_somebody_says_or_else_for_an_hour() -> None:
    live = session(run_limits=RunLimits(job_execution_s_max=3600.0))
    bring(live, job(11), now=1.0)
    assert live.batch_ends_by() == 3601.0
    complete(live, 1)
    bring(live, job(12, timeout_s=5.0), now=1.0)
    assert live.batch_ends_by() == 3601.0  # its client's limit ends the job, not the replica
    complete(live, 1)
    bring(live, job(14, timeout_s=7200.0), now=1.0)
    assert live.batch_ends_by() == 7201.0 + RUN_LIMITS.abandoned_grace_s
    alone = session(run_limits=RunLimits(jobs_only=True))
    bring(alone, job(12, timeout_s=5.0), now=1.0)
    assert alone.batch_ends_by() == 6.0 + RUN_LIMITS.abandoned_grace_s
    limited = session(run_limits=RunLimits(execution_timeout_s=2.0))
    bring(limited, job(13, timeout_s=5.0), now=1.0)
    assert limited.batch_ends_by() == 3.0


def test_a_call_in_a_batch_with_jobs_is_given_up_as_ever() -> None:
    live = taught()
    tell(live, request(1))
    bring(live, job(11))
    tell(live, request(2, budget_s=8))
    assert executing(complete(live, 1, now=1.0)) == [2, 11]
    assert live.batch_ends_by() == 8 + RUN_LIMITS.abandoned_grace_s

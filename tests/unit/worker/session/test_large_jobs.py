"""A job of more rows than a batch: piece by piece, with calls between, and one answer."""

from __future__ import annotations

import numpy as np

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.wire.messages import Final, Nack, NackReason, Request
from penstock.shared.wire.tensors import Tensor, array_from_tensor, tensor_from_array
from penstock.worker.job_line.messages import Job
from penstock.worker.session.commands import Command, Execute
from penstock.worker.session.outcomes import Completed, Failed, FailureKind
from penstock.worker.session.session import Session
from tests.unit.worker.session.test_session import INTERFACE, request, sent, session, tell

ROWS = np.arange(10, dtype=np.float32).reshape(10, 1)


def arrived(live: Session, number: int = 1) -> list[Command]:
    job = Job(number, Request(number, 0, (tensor_from_array("x", ROWS),)), id=f"job {number}")
    return live.jobs_arrived([job], 0.0) + live.advance(0.0)


def running(commands: list[Command]) -> tuple[Tensor, ...]:
    """Inputs of what is to be executed now."""
    (execute,) = [command for command in commands if isinstance(command, Execute)]
    return tuple([item.payload.inputs[0] for item in execute.items])


def executed(live: Session, inputs: tuple[Tensor, ...]) -> list[Command]:
    """It gave what it was given."""
    outputs = [(Tensor("y", "FP32", each.shape, each.data),) for each in inputs]
    return live.executed(Completed(outputs, 0.001)) + live.advance(0.0)


def test_it_is_answered_once_with_all_rows_in_order() -> None:
    live = session()
    commands, pieces = arrived(live), 0
    while not (finals := sent(commands, Final)):
        pieces += 1
        inputs = running(commands)
        assert inputs[0].rows <= INTERFACE.max_batch_size
        commands = executed(live, inputs)
    (final,) = finals
    assert isinstance(final, Final)
    assert array_from_tensor(final.outputs[0]).tolist() == ROWS.tolist()
    assert pieces >= 3
    assert final.infer_us == pieces * 1000
    assert not live.has_more


def test_calls_have_their_turn_between_two_pieces() -> None:
    live = session()
    first = running(arrived(live))
    assert not tell(live, request(7))[1:]  # it waits for the piece that runs
    commands = executed(live, first)
    (call, *_) = running(commands)
    assert array_from_tensor(call).tolist() == [[7.0]]


def test_what_drains_gives_the_rest_back() -> None:
    live = session()
    first = running(arrived(live))
    live.drain(0.0)
    (nack,) = sent(executed(live, first), Nack)
    assert nack == Nack(1, NackReason.DRAINING)


def test_a_canceled_one_goes_no_further() -> None:
    live = session()
    first = running(arrived(live))
    assert not live.job_gone(1, 0.0)
    commands = executed(live, first)
    assert sent(commands, Nack) == [Nack(1, NackReason.DRAINING)]
    assert not any(isinstance(command, Execute) for command in commands)


def test_one_that_waits_between_pieces_is_dropped() -> None:
    live = session()
    first = running(arrived(live))
    tell(live, request(7))
    commands = executed(live, first)
    assert live.job_gone(1, 0.0)
    commands = executed(live, running(commands))
    assert not any(isinstance(command, Execute) for command in commands)


def test_a_failure_names_the_rows() -> None:
    live = session()
    first = running(arrived(live))
    inputs = running(executed(live, first))
    commands = live.executed(Failed(FailureKind.INPUT, 0.001, "ValueError: no"))
    (final,) = sent(commands, Final)
    assert isinstance(final, Final)
    assert final.failure is not None
    assert final.failure.code is ErrorCode.MODEL_ERROR
    last = first[0].rows + inputs[0].rows - 1
    assert final.failure.message.startswith(f"rows {first[0].rows} to {last} of 10 (from 0): ")


def test_a_model_that_turns_out_to_mix_rows_runs_all_of_them() -> None:
    live = session()
    first = running(arrived(live))
    live.lowered(INTERFACE.model_copy(update={"max_batch_size": 0}), 0)
    (whole,) = running(executed(live, first))
    assert array_from_tensor(whole).tolist() == ROWS.tolist()
    (final,) = sent(executed(live, (whole,)), Final)
    assert isinstance(final, Final)
    assert array_from_tensor(final.outputs[0]).tolist() == ROWS.tolist()

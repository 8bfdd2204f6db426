"""Streams, run one at a time: what is told, what the answer is, and how they end otherwise."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.payload import RESULT_TYPE, unpack_result
from penstock.shared.wire.messages import Parameters, Request
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from penstock.worker.jobs.stream import NoAnswer, Stopped, StreamOutcome, Told, run_stream
from penstock.worker.jobs.yields import JSON_TYPE
from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.session.outcomes import Completed, Failed, FailureKind

OUTPUT = TensorSpec(name="y", datatype="FP64", shape=(-1, 2))
INPUT = TensorSpec(name="x", datatype="FP64", shape=(-1,))


def request(rows: int = 1) -> Request:
    return Request(0, 0, (tensor_from_array("x", np.arange(float(rows))),))


class Model:
    """A runtime whose stream is a generator given to it."""

    provider = "test"
    static_rows: int | None = None
    any_thread = False
    unbatched = ""
    coarse = False
    may_be_static = False
    runs_code = False
    scorer = None
    form = None
    words = None

    def __init__(self, generate: Callable[[], Generator[Any]], *, streams: bool = True) -> None:
        self.interface = ModelInterface(
            inputs=(INPUT,), outputs=(OUTPUT,), max_batch_size=4, platform="test", streams=streams
        )
        self._generate = generate

    def opened(self) -> None:
        return None

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        return [np.stack([inputs["x"], inputs["x"]], axis=1)]

    def stream(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Generator[object]:
        assert inputs["x"].shape == (1,)
        yield from self._generate()


def run(model: Model, stop_after: int = 99, rows: int = 1) -> tuple[StreamOutcome, list[Told]]:
    """Run a stream that is told to stop after so many things were told."""
    told: list[Told] = []
    outcome = run_stream(model, request(rows), told.append, lambda: len(told) >= stop_after)
    return outcome, told


def outputs_of(told: Sequence[Told]) -> list[Any]:
    outputs = []
    for each in told:
        if isinstance(each, tuple) and each[0].media_type == RESULT_TYPE:
            (tensor,) = unpack_result(each[1]).final.outputs
            outputs.append(array_from_tensor(tensor).tolist())
    return outputs


def answer_of(outcome: StreamOutcome) -> Any:
    assert isinstance(outcome, Completed)
    ((tensor,),) = outcome.outputs
    return array_from_tensor(tensor).tolist()


def test_the_last_output_is_the_answer_though_the_model_goes_on_changing_it() -> None:
    def generate() -> Generator[Any]:
        image = np.zeros(2)
        for step in (1, 2):
            image += step
            yield {"progress": step / 2}
            yield {"y": image}
        image += 100
        yield {"progress": 1, "message": "cleaned up"}

    outcome, told = run(Model(generate))
    assert answer_of(outcome) == [[3, 3]]
    assert outputs_of(told) == [[[1, 1]], [[3, 3]]]
    assert [each for each in told if isinstance(each, Progress)] == [
        Progress(0.5),
        Progress(1.0),
        Progress(1.0, "cleaned up"),
    ]


def test_it_is_closed_where_it_is_stopped() -> None:
    closed = []

    def generate() -> Generator[Any]:
        try:
            for step in range(9):
                yield {"y": [step, step]}
        finally:
            closed.append(step)

    outcome, told = run(Model(generate), stop_after=3)
    assert isinstance(outcome, Stopped)
    assert len(told) == 3
    assert closed == [2]


def test_it_is_not_begun_if_it_is_to_stop() -> None:
    def generate() -> Generator[Any]:
        raise AssertionError("it began")
        yield

    assert run(Model(generate), stop_after=0) == (Stopped(0.0), [])


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ("some text", "what the model yielded last is no answer: output 'y' has"),
        (np.ones((3, 2)), r"no answer: output 'y' has shape \[3, 2\] for a batch of 1 rows"),
        ({"progress": 1}, "the model yielded no output"),
    ],
)
def test_a_stream_without_an_answer(last: object, words: str) -> None:
    def generate() -> Generator[Any]:
        yield last

    outcome, told = run(Model(generate))
    assert isinstance(outcome, NoAnswer)
    assert len(told) == 1
    with pytest.raises(ValueError, match=words):
        raise ValueError(outcome.message)


def test_outputs_before_the_last_may_be_of_any_kind() -> None:
    def generate() -> Generator[Any]:
        yield {"note": "begun"}
        yield [1, 2]

    outcome, told = run(Model(generate))
    assert answer_of(outcome) == [[1, 2]]
    assert isinstance(told[0], tuple)
    assert (told[0][0].media_type, told[0][1]) == (JSON_TYPE, b'{"note":"begun"}')


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ExecutionError(FailureKind.FATAL, "device"), FailureKind.FATAL),
        (MemoryError(), FailureKind.OUT_OF_MEMORY),
        (ValueError("bad"), FailureKind.INPUT),
        (SystemExit(1), FailureKind.INPUT),
    ],
)
def test_what_is_raised_in_the_middle_fails_the_job(
    raised: BaseException, kind: FailureKind
) -> None:
    def generate() -> Generator[Any]:
        yield [1, 2]
        raise raised

    outcome, told = run(Model(generate))
    assert isinstance(outcome, Failed)
    assert outcome.kind is kind
    assert len(told) == 1


def test_a_model_that_does_not_end_when_it_is_closed_fails() -> None:
    def generate() -> Generator[Any]:
        for _ in range(2):
            with contextlib.suppress(GeneratorExit):
                yield [1, 2]

    outcome, _ = run(Model(generate), stop_after=1)
    assert isinstance(outcome, Failed)
    assert "ignored GeneratorExit" in outcome.reason


@pytest.mark.parametrize(("streams", "rows"), [(False, 1), (True, 3)])
def test_what_cannot_be_streamed_is_executed_whole(streams: bool, rows: int) -> None:
    def generate() -> Generator[Any]:
        sys.exit("it streamed")
        yield

    outcome, told = run(Model(generate, streams=streams), rows=rows)
    assert answer_of(outcome) == [[row, row] for row in range(rows)]
    assert told == []

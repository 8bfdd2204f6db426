"""Whether the rows of a model are independent of each other: a trial, and its verdict.

Theory. Requests may share an execution only if no row's answer depends on the rows beside it or on
its place, and if the answers can be told apart again: an output has as many rows as went in, in
their order. Nothing in a graph or a signature proves that, so rows that differ, one of them extreme
(which shows a scale that is taken from the whole batch), are run alone, together, in another order,
and fewer of them; each row must come out the same. What fails that, or cannot show it, is not
batched: that costs speed, and the opposite costs right answers.

A model of a single batch size cannot run a row alone. There the same rows run at other places,
beside other rows and beside padding. At a size of one there is nothing to mix.

Rows that a model refuses prove nothing, and are left out.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError, Runtime
from penstock.worker.session.outcomes import FailureKind
from penstock.worker.trial.compare import largest_of, same_row, tolerance_of
from penstock.worker.trial.invented import TENSOR_BYTES_MAX
from penstock.worker.trial.rows import (
    FREE_SIZES,
    ROWS_WANTED,
    SEED,
    Row,
    candidates,
    crossed,
    extremes,
    joined,
    rows_possible,
    same_shapes,
    same_values,
)

ROWS_MIN = 4
"""Different ordinary rows without which a trial shows nothing, unless there are no more."""

ALIKE_MAX = 8
"""Rows of a batch in which all but one are equal, where there are few different ones."""

TRIAL_S_MAX = 60.0
"""A trial that takes longer shows nothing: a load must end."""

Answers = Sequence[AnyArray]


class RunFailedError(Exception):
    """An execution failed, on its input or for want of memory."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class UnprovenError(Exception):
    """The rows are not independent, or were not shown to be; the message is for the operator.

    Attributes:
        shown: they are not: no other trial can find otherwise.
    """

    def __init__(self, message: str, *, shown: bool = False) -> None:
        super().__init__(message)
        self.shown = shown


@dataclass
class Runner:
    """Executes rows on a runtime, and keeps count of what that takes.

    Attributes:
        took_s: how long the last execution took.
        spent_s: all of them together.
        failed: the last batch that failed, and how; None: none did.
    """

    runtime: Runtime
    took_s: float = 0.0
    spent_s: float = 0.0
    failed: tuple[Row, FailureKind] | None = None

    @property
    def careful(self) -> bool:
        """Whether integers that the model does not expect may end the process: on a GPU they do."""
        return "cuda" in self.runtime.provider.lower()

    def run(self, rows: Sequence[Row]) -> Answers:
        """Execute rows as one batch.

        Raises:
            RunFailedError: if that failed.
            UnprovenError: if the batch would be larger than a trial may make one; it is not made.
            ModelLoadError: if the device is of no more use.
        """
        check_size(rows[0], len(rows))
        return self.execute(joined(rows))

    def execute(self, batch: Row) -> Answers:
        """Execute a batch, or what is one request of a model that is not batched.

        Raises:
            RunFailedError, ModelLoadError: as `run`.
        """
        started = time.monotonic()
        try:
            answers = self.runtime.execute(batch)
        except ExecutionError as error:
            if error.kind is FailureKind.FATAL:
                raise ModelLoadError(f"the model failed its warm-up: {error}") from error
            self.failed = (batch, error.kind)
            raise RunFailedError(error.kind, str(error)) from error
        except Exception as error:
            kind = FailureKind.INPUT
            if isinstance(error, MemoryError):
                kind = FailureKind.OUT_OF_MEMORY
            self.failed = (batch, kind)
            raise RunFailedError(kind, f"{type(error).__name__}: {error}") from error
        finally:
            self.took_s = time.monotonic() - started
            self.spent_s += self.took_s
        arrays = answers.values() if isinstance(answers, Mapping) else answers
        return [np.array(answer) for answer in arrays]


def rows_max(row: Row) -> int:
    """Most rows like this one that a trial puts into one batch; 0: not even one."""
    return TENSOR_BYTES_MAX // max(sum(array.nbytes for array in row.values()), 1)


def check_size(row: Row, rows: int) -> None:
    """See that so many rows like this one are no larger than what a trial may make.

    Raises:
        UnprovenError: if they are.
    """
    if rows > rows_max(row):
        raise UnprovenError(
            f"a batch of {rows} row(s) is larger than the {TENSOR_BYTES_MAX >> 20} MiB that a "
            "trial may make"
        )


@dataclass
class AloneRuns:
    """Rows that a model took alone, and what it answered to each.

    Attributes:
        ordinary: how many of the rows are ordinary; they come first.
        refusal: why the first of those failed that did.
        refused: the error that was; without what its frames held, which may be much memory.
    """

    rows: list[Row]
    answers: list[Answers]
    refusal: str = ""
    ordinary: int = 0
    refused: RunFailedError | None = None

    def ordinary_rows(self) -> list[Row]:
        """Those that are like what clients send: how long they take is what these will take."""
        return self.rows[: self.ordinary]


def run_alone(
    runner: Runner, specs: Sequence[TensorSpec], example: Row | None, static: int | None = None
) -> AloneRuns:
    """Run ordinary rows and an extreme one, each alone.

    Args:
        example: the author's rows, if there are any.
        static: the one batch size of the model: a row then fills the batch by itself.

    Raises:
        RunFailedError: if memory does not suffice for a single row.
        UnprovenError: if rows are too large to be compared in one batch.
    """
    found = AloneRuns([], [])
    for free_size in FREE_SIZES if example is None and is_open(specs) else FREE_SIZES[:1]:
        for row in candidates(specs, example, free_size, careful=runner.careful):
            if len(found.rows) < ROWS_WANTED and runner.spent_s < TRIAL_S_MAX:
                _try(runner, row, found, static)
        if found.rows:
            break
    found.ordinary = len(found.rows)
    if found.rows:
        ordinary = found.ordinary_rows()
        table = runner.runtime.interface.table
        for choice in ([row] for row in crossed(ordinary)):
            _try_first(runner, choice, found, static)
        for choice in extremes(ordinary, table=table, careful=runner.careful):
            _try_first(runner, choice, found, static)
    return found


def run_without(runner: Runner, alone: AloneRuns, left_out: Collection[str]) -> AloneRuns:
    """Run the rows again, each alone, without some of their inputs.

    Raises:
        RunFailedError: if memory does not suffice for a single row.
    """
    found = AloneRuns([], [])
    for position, row in enumerate(alone.rows):
        if runner.spent_s < TRIAL_S_MAX:
            fewer = {name: array for name, array in row.items() if name not in left_out}
            _try(runner, fewer, found, static=None)
        if position < alone.ordinary:
            found.ordinary = len(found.rows)
    return found


def _try_first(runner: Runner, choice: Sequence[Row], found: AloneRuns, static: int | None) -> None:
    """Try rows until one is taken."""
    count = len(found.rows)
    for row in choice:
        if len(found.rows) == count and runner.spent_s < TRIAL_S_MAX:
            _try(runner, row, found, static)


def is_open(specs: Sequence[TensorSpec]) -> bool:
    """Whether a dimension is open beside the first one."""
    return any(-1 in spec.shape[1:] for spec in specs)


def _try(runner: Runner, row: Row, found: AloneRuns, static: int | None) -> None:
    # Rows of which no two may be in one batch would be made for nothing.
    runtime = runner.runtime
    check_size(row, runtime.static_rows or min(runtime.interface.max_batch_size, 2))
    if found.rows and not same_shapes(row, found.rows[0]):
        return
    if any(same_values(row, other) for other in found.rows):
        return
    try:
        answers = runner.run([row] * (static or 1))
    except RunFailedError as error:
        if error.kind is FailureKind.OUT_OF_MEMORY and not found.rows:
            raise
        if found.refused is None:
            found.refusal, found.refused = error.reason, _without_locals(error)
        return
    found.rows.append(row)
    found.answers.append(answers)


def _without_locals(error: RunFailedError) -> RunFailedError:
    """An error that may be kept."""
    each: BaseException | None = error
    while each is not None:
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__
    return error


class Proof:
    """Compares what rows answer together with what they answered alone.

    Args:
        alone: at least `ROWS_MIN` rows. In a model of a single batch size, each filled one.
        names: of the outputs.
        coarse: outputs were computed in BF16.
    """

    def __init__(
        self, runner: Runner, alone: AloneRuns, names: Sequence[str], *, coarse: bool = False
    ) -> None:
        self._runner = runner
        self._alone = alone
        self._names = names
        self._tolerances = [
            tolerance_of(np.concatenate(each), coarse=coarse)
            if len({answer.shape[1:] for answer in each}) == 1
            else 0.0
            for each in zip(*alone.answers, strict=True)
        ]
        self._scales = [largest_of(each) for each in zip(*alone.answers, strict=True)]

    def holds_for(self, positions: Sequence[int]) -> None:
        """Run these of the rows together and compare.

        Raises:
            UnprovenError: if a row's answer is another than alone.
            RunFailedError: if they cannot be run together.
        """
        if self._runner.spent_s > TRIAL_S_MAX:
            raise UnprovenError(f"its trial took longer than {TRIAL_S_MAX:.0f} s")
        answers = self._runner.run([self._alone.rows[position] for position in positions])
        self.compare(answers, positions)

    def compare(self, answers: Answers, positions: Sequence[int]) -> None:
        """Compare what these of the rows answered together with what they answered alone.

        Raises:
            UnprovenError: if a row's answer is another.
        """
        for number, (name, answer) in enumerate(zip(self._names, answers, strict=True)):
            check_rows(name, answer, len(positions))
            for place, position in enumerate(positions):
                known = self._alone.answers[position][number][:1]
                other = answer[place : place + 1]
                if not same_row(known, other, self._tolerances[number], self._scales[number]):
                    raise UnprovenError(
                        f"output {name!r} for a row depends on the other rows of its batch",
                        shown=True,
                    )


def check_rows(name: str, answer: AnyArray, rows: int) -> None:
    """See that an output has as many rows as went in.

    Raises:
        UnprovenError: if not.
    """
    if answer.ndim == 0 or answer.shape[0] != rows:
        went_in = "one row" if rows == 1 else f"{rows} rows"
        raise UnprovenError(
            f"output {name!r} has shape {list(answer.shape)} for {went_in}", shown=True
        )


def check_enough(alone: AloneRuns, inputs: Sequence[TensorSpec]) -> None:
    """See that enough rows ran to show something: some, or all that there can be.

    Raises:
        UnprovenError: if not.
    """
    given = alone.rows[0] if alone.rows else {}
    possible = rows_possible([spec for spec in inputs if spec.name in given])
    if alone.ordinary < min(ROWS_MIN, possible):
        refused = f", it refused others ({alone.refusal[:200]})" if alone.refusal else ""
        raise UnprovenError(
            f"only {alone.ordinary} different trial rows ran{refused}; log the model with an "
            f"input_example of {ROWS_WANTED} rows to have it tried"
        )


def check_different(alone: AloneRuns) -> None:
    """See that rows had different answers: else one could stand in another's place unseen.

    Raises:
        UnprovenError: if not.
    """
    if all(_same_answers(alone.answers[0], other) for other in alone.answers[1:]):
        raise UnprovenError(
            "all trial rows had the same answer, which shows nothing; log the model with an "
            f"input_example of {ROWS_WANTED} rows whose answers differ"
        )


def check_sizes(
    alone: AloneRuns, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> None:
    """See that outputs whose size no input tells had different sizes.

    Else such rows may be padded to the longest of their batch, as generated text is, unseen.

    Raises:
        UnprovenError: if not.
    """
    if is_open(inputs):
        return
    for number, spec in enumerate(outputs):
        sizes = {answers[number].shape[1:] for answers in alone.answers}
        if -1 in spec.shape[1:] and len(sizes) < 2:
            raise UnprovenError(
                f"output {spec.name!r} may be of any size, and had one size for all trial rows; "
                f"log the model with an input_example of {ROWS_WANTED} rows whose outputs differ "
                "in size, or with a signature that says the size"
            )


def _same_answers(one: Answers, other: Answers) -> bool:
    return all(
        np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")
        for ours, theirs in zip(one, other, strict=True)
    )


def prove_open(proof: Proof, count: int, limit: int) -> None:
    """Run rows together, permuted, and fewer of them.

    Args:
        count: of rows; the last one is the extreme one, if there is any.
        limit: most rows in a batch, at least 2.

    Raises:
        UnprovenError, RunFailedError: as `Proof.holds_for`.
    """
    order = [int(each) for each in np.random.default_rng(SEED).permutation(count)]
    proof.holds_for([0, 0, 1, 1][:limit])  # equal rows
    proof.holds_for([count - 1, 0])  # the smallest batch that mixes: where that fails, all do
    for size in sorted({min(count, limit), min(3, limit)}, reverse=True):
        for sequence in (list(range(count)), order, order[::-1]):
            for chunk in _chunks(sequence, size):
                proof.holds_for(chunk)
    if count < ROWS_MIN:
        for odd in range(count):
            alike = [(odd + 1) % count] * (min(ALIKE_MAX, limit) - 1)
            proof.holds_for([*alike, odd])
            proof.holds_for([odd, *alike])


def _chunks(sequence: Sequence[int], size: int) -> list[list[int]]:
    """Whole chunks of a sequence; the last one is filled up from its beginning."""
    chunks = [list(sequence[i : i + size]) for i in range(0, len(sequence), size)]
    chunks[-1] = [*chunks[-1], *sequence][:size]
    return chunks


def prove_static(proof: Proof, count: int, size: int) -> None:
    """Run rows at other places, beside other rows and beside padding.

    Args:
        count: of rows.
        size: the one batch size, at least 2.

    Raises:
        UnprovenError, RunFailedError: as `Proof.holds_for`.
    """
    order = [int(each) for each in np.random.default_rng(SEED).permutation(count)]
    for sequence in (list(range(count)), order):
        filled = (sequence * size)[: max(size, count)]
        for chunk in _chunks(filled, size):
            proof.holds_for(chunk)
            proof.holds_for(chunk[::-1])
    for first in range(count):
        second = order[first] if order[first] != first else (first + 1) % count
        proof.holds_for([first] + [second] * (size - 1))
        proof.holds_for([second] * (size - 1) + [first])


def tiled(rows: Sequence[Row], size: int) -> list[Row]:
    """As many rows as wanted, in turn."""
    return [rows[position % len(rows)] for position in range(size)]


def shape_key(
    row: Mapping[str, AnyArray], datatypes: Mapping[str, str], lead: int
) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    """The shape class of rows like this one, as `penstock.worker.session.buckets` has it."""
    return tuple((name, datatypes[name], array.shape[lead:]) for name, array in row.items())

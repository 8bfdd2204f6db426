"""What a first load finds out: batch sizes, and whether rows are independent."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from penstock.shared.contracts.deployment import Batching, ModelInterface
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError
from penstock.worker.session.outcomes import FailureKind
from penstock.worker.trial.rows import candidates, extremes
from penstock.worker.trial.warmup import WarmUp, execute_once

Compute = Callable[[AnyArray], AnyArray]


class Fake:
    """Computes something of one input; refuses where `failure` says so."""

    provider: str = "fake"
    any_thread: bool = False
    unbatched = ""
    coarse = False
    may_be_static = True
    runs_code = False
    scorer = None
    form = None
    words = None

    def __init__(
        self,
        compute: Compute = lambda x: x,
        failure: Callable[[int], FailureKind | None] = lambda rows: None,
        datatype: str = "FP32",
        static: int | None = None,
    ) -> None:
        self._compute = compute
        self._failure = failure
        self.runs: list[int] = []
        self.static_rows = static
        spec = TensorSpec(name="x", datatype=datatype, shape=(-1, 3))
        self.interface = ModelInterface(
            inputs=(spec,), outputs=(spec,), max_batch_size=static or 12, platform="fake"
        )

    def opened(self) -> None:
        return None

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        rows = len(inputs["x"])
        self.runs.append(rows)
        kind = self._failure(rows)
        if kind is not None:
            raise ExecutionError(kind, "the reason")
        return [self._compute(inputs["x"])]


def found(fake: Fake, batching: Batching = "auto") -> tuple[int, int | None, bool]:
    finding = WarmUp(fake, batching).find_out()
    return finding.interface.max_batch_size, finding.static_rows, finding.merges


def reason(fake: Fake) -> str:
    finding = WarmUp(fake).find_out()
    assert (finding.interface.max_batch_size, finding.merges) == (0, False)
    return finding.reason


def test_independent_rows_are_batched_at_all_sizes_up_to_the_limit() -> None:
    fake = Fake(lambda x: x * 2)
    finding = WarmUp(fake).find_out()
    assert (finding.interface.max_batch_size, finding.merges, finding.reason) == (12, True, "")
    assert [rows for rows, _ in finding.timings] == [1, 2, 4, 8, 12]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: np.argsort(np.argsort(x, axis=0), axis=0).astype(np.float32),
        lambda x: np.cumsum(x, axis=0),
        lambda x: x / max(np.abs(x).max(), np.float32(1e-9)),
        lambda x: np.sort(x, axis=0),
        lambda x: x[::-1],
        lambda x: x * np.float32(1 + 1e-3 * len(x)),
    ],
)
def test_rows_that_depend_on_others_are_not_batched(compute: Compute) -> None:
    assert "depends on the other rows" in reason(Fake(compute))


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda x: x.T, r"output 'x' has shape \[3, 1\] for one row"),
        (lambda x: x.mean(), r"output 'x' has shape \[\] for one row"),
        (lambda x: x[x[:, 0] > 0], r"output 'x' has shape \[0, 3\] for one row"),
    ],
)
def test_outputs_with_other_rows_are_not_batched(compute: Compute, words: str) -> None:
    assert re.search(words, reason(Fake(compute)))


def test_noise_is_not_batched_unless_the_operator_says_so() -> None:
    rng = np.random.default_rng(1)

    def noise(x: AnyArray) -> AnyArray:
        noisy: AnyArray = x + rng.standard_normal(x.shape).astype(x.dtype)
        return noisy

    assert "set penstock.batching = on" in reason(Fake(noise))
    assert found(Fake(noise), "on") == (12, None, True)


def test_off_is_not_batched() -> None:
    assert found(Fake(), "off") == (0, None, False)


@pytest.mark.parametrize("size", [4, 12])
def test_the_only_size_that_runs_is_static(size: int) -> None:
    fake = Fake(failure=lambda rows: None if rows == size else FailureKind.INPUT)
    assert found(fake) == (size, size, True)


def test_rows_that_run_alone_only_run_one_by_one() -> None:
    fake = Fake(failure=lambda rows: None if rows == 1 else FailureKind.INPUT)
    assert found(fake) == (12, 1, False)


def test_a_static_batch_that_mixes_its_rows_is_neither_merged_nor_padded() -> None:
    finding = WarmUp(Fake(lambda x: x - x.mean(axis=0), static=4)).find_out()
    assert (finding.interface.max_batch_size, finding.static_rows) == (0, None)
    assert finding.interface.inputs[0].shape == (4, 3)


def test_a_static_batch_of_independent_rows_is_padded() -> None:
    assert found(Fake(lambda x: x + 1, static=4)) == (4, 4, True)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_memory_sets_the_limit_while_rows_are_compared(most: int) -> None:
    fake = Fake(failure=lambda rows: None if rows <= most else FailureKind.OUT_OF_MEMORY)
    limit, static, _ = found(fake)
    assert 1 <= limit <= most
    assert limit * 2 > most
    assert static is None


def test_memory_sets_the_limit() -> None:
    fake = Fake(failure=lambda rows: None if rows < 9 else FailureKind.OUT_OF_MEMORY)
    assert found(fake) == (6, None, True)


@pytest.mark.parametrize("kind", [FailureKind.INPUT, FailureKind.FATAL])
def test_a_model_that_never_runs_is_not_served(kind: FailureKind) -> None:
    with pytest.raises(ModelLoadError, match="the reason"):
        WarmUp(Fake(failure=lambda rows: kind)).find_out()


def test_a_model_that_refuses_made_up_text_is_served_and_not_batched() -> None:
    fake = Fake(failure=lambda rows: FailureKind.INPUT, datatype="BYTES")
    assert "refused all made-up rows" in reason(fake)


def test_what_acts_or_must_not_be_executed_is_not() -> None:
    for warm_up in (WarmUp(Fake(), acts=True), WarmUp(Fake(), "on", acts=True)):
        assert warm_up.find_out().interface.max_batch_size == 0
    fake = Fake()
    assert WarmUp(fake, policy="off").find_out().interface.max_batch_size == 0
    assert WarmUp(fake, "on", "off").find_out().merges
    assert fake.runs == []


def test_a_later_load_executes_the_largest_size_once() -> None:
    finding: Finding = WarmUp(Fake()).find_out()
    fake = Fake()
    assert execute_once(fake, finding, None)
    assert fake.runs == [12]


def test_how_often_a_first_load_executes_the_model_is_what_the_documents_say() -> None:
    fake = Fake(lambda x: x * 2)
    fake.interface = fake.interface.model_copy(update={"max_batch_size": 32})
    WarmUp(fake).find_out()
    assert len(fake.runs) == 35


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: np.where(np.arange(len(x))[:, None] < 8, x, x * 2),
        lambda x: np.array([[np.isin(row[0], x[:i, 0])] * 3 for i, row in enumerate(x)], float),
        lambda x: x / np.float32(max(x.max(), 100.0)),
        lambda x: x / np.float32(max(-x.min(), 100.0)),
        lambda x: np.stack([x[:, 0] * 0 + 1.7e9, x[:, 1] - x[:, 1].clip(-1, 1).mean()], axis=1),
    ],
    ids=["the ninth row", "copies", "far above", "far below", "beside large numbers"],
)
def test_rows_that_depend_on_others_in_hidden_ways_are_not_batched(compute: Compute) -> None:
    assert "depends on the other rows" in reason(Fake(compute, datatype="FP64"))


def test_a_model_whose_trial_rows_all_have_one_answer_is_not_batched() -> None:
    assert "same answer" in reason(Fake(lambda x: (x > 1e9).astype(np.float32)))


def test_a_failing_pair_does_not_make_a_batch_size_static_where_code_may_do_anything() -> None:
    fake = Fake(failure=lambda rows: None if rows == 1 else FailureKind.INPUT)
    fake.may_be_static = False
    assert "rows that run alone fail together" in reason(fake)


def test_an_example_that_the_model_refuses_costs_no_load() -> None:
    def refuse(x: AnyArray) -> AnyArray:
        if (x == 7).any():
            raise ExecutionError(FailureKind.INPUT, "not seven")
        return x * 2

    example = {"x": np.full((5, 3), 7, np.float32)}
    finding = WarmUp(Fake(refuse), example=example).find_out()
    assert finding.interface.max_batch_size == 12


def test_extreme_rows_that_take_too_much_memory_cost_no_load() -> None:
    def greedy(x: AnyArray) -> AnyArray:
        if np.abs(x).max() > 100:
            raise ExecutionError(FailureKind.OUT_OF_MEMORY, "too large")
        return x * 2

    assert found(Fake(greedy)) == (12, None, True)


class Table(Fake):
    """Takes `x`, and `y` if it is there; computes something of both."""

    def __init__(self, compute: Callable[[AnyArray, AnyArray | None], AnyArray]) -> None:
        super().__init__()
        self._of_both = compute
        x, *_ = self.interface.inputs
        y = x.model_copy(update={"name": "y", "optional": True})
        self.interface = self.interface.model_copy(update={"inputs": (x, y), "max_batch_size": 32})

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        self.runs.append(len(inputs["x"]))
        return [self._of_both(inputs["x"], inputs.get("y"))]


class Wide(Fake):
    """A table of two numbers and two texts, of which one each may be left out."""

    def __init__(self) -> None:
        super().__init__()
        kinds = {"a": "FP64", "b": "BYTES", "c": "INT64", "d": "BYTES"}
        columns = [
            TensorSpec(name=name, datatype=kind, shape=(-1,), optional=name in "cd")
            for name, kind in kinds.items()
        ]
        self.interface = self.interface.model_copy(
            update={"inputs": tuple(columns), "max_batch_size": 32, "table": True}
        )

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        self.runs.append(len(inputs["a"]))
        lengths = [len(each) for each in inputs["b"]]
        return [np.nan_to_num(np.stack([inputs["a"], lengths], axis=1))]


def test_the_most_executions_of_a_first_load_are_what_the_documents_say() -> None:
    wide = Wide()
    assert WarmUp(wide).find_out().tried == (("a", "b", "c", "d"), ("a", "b"))
    assert len(wide.runs) == 46 + 34


def test_inputs_that_may_be_left_out_are_tried_both_ways() -> None:
    both = Table(lambda x, y: x if y is None else x + y)
    finding = WarmUp(both).find_out()
    assert (finding.merges, finding.tried) == (True, (("x", "y"), ("x",)))
    assert len(both.runs) <= 46 + 34


@pytest.mark.parametrize(
    "without",
    [
        lambda x: x - x.mean(axis=0),
        lambda x: x[:1],
        lambda x: x * 0,
        lambda x: np.where(np.arange(len(x))[:, None] < 31, x, x * 2),
    ],
)
def test_what_mixes_rows_without_an_input_is_batched_only_with_it(without: Compute) -> None:
    finding = WarmUp(Table(lambda x, y: without(x) if y is None else x + y)).find_out()
    assert (finding.merges, finding.tried) == (True, (("x", "y"),))


def test_what_the_operator_says_holds_for_requests_of_any_kind() -> None:
    assert WarmUp(Table(lambda x, y: x), "on").find_out().tried is None
    assert WarmUp(Fake(), "on", "off").find_out().tried is None
    assert WarmUp(Fake(static=4)).find_out().tried == (("x",),)


class Speaker(Fake):
    """Answers each row with as many numbers as it says, padded to the longest of the batch."""

    def __init__(self, length: Callable[[AnyArray], AnyArray]) -> None:
        def speak(x: AnyArray) -> AnyArray:
            lengths = length(x)
            said: AnyArray = (np.arange(lengths.max()) < lengths[:, None]) * x[:, :1]
            return said.astype(np.float32)

        super().__init__(speak)
        (spec,) = self.interface.outputs
        open_size = spec.model_copy(update={"shape": (-1, -1)})
        self.interface = self.interface.model_copy(update={"outputs": (open_size,)})


def test_answers_of_any_size_that_had_one_size_are_no_evidence() -> None:
    rare = Speaker(lambda x: np.where(x[:, 0] == 7777, 9, 4))
    assert "may be of any size" in reason(rare)
    often = Speaker(lambda x: 4 + (x[:, 0] > 0).astype(int))
    assert "depends on the other rows" in reason(often)


def test_a_size_that_an_input_leaves_open_too_may_be_one() -> None:
    fake = Fake(lambda x: x * 2)
    (spec,) = fake.interface.inputs
    opened = (spec.model_copy(update={"shape": (-1, -1)}),)
    fake.interface = fake.interface.model_copy(update={"inputs": opened, "outputs": opened})
    assert found(fake) == (12, None, True)


def of_integers(compute: Compute) -> Fake:
    return Fake(lambda x: compute(x.astype(np.float64)), datatype="INT64")


def test_integers_beyond_the_range_of_the_example_are_tried() -> None:
    example = {"x": np.arange(10, 25).reshape(5, 3)}
    fake = of_integers(lambda x: x / max(x.max(), 30.0))
    assert "depends on the other rows" in (WarmUp(fake, example=example).find_out().reason)

    def strict(x: AnyArray) -> AnyArray:
        if x.max() > 24:
            raise ExecutionError(FailureKind.INPUT, "no such code")
        return x * 2

    assert WarmUp(of_integers(strict), example=example).find_out().merges


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", "float16", "float32"])
def test_the_row_beyond_stays_within_what_its_type_holds(dtype: str) -> None:
    largest = np.finfo(dtype).max if "float" in dtype else np.iinfo(dtype).max
    for high, expected in ((20, 30), (largest, None)):
        rows = [{"x": np.array([each], dtype)} for each in (10, high)]
        (beyond,) = list(extremes(rows, table=False, careful=False))[2]
        assert beyond["x"].dtype == dtype
        number = float(beyond["x"][0])
        assert number == expected or (expected is None and number > float(largest) * 0.9)


def texts(compute: Callable[[list[str]], list[str]], refuses: str = "") -> Fake:
    """A model of one text, from one text."""

    def run(x: AnyArray) -> AnyArray:
        given = [each.decode() for each in x.ravel()]
        if refuses and any(refuses in each for each in given):
            raise ExecutionError(FailureKind.INPUT, "one line, please")
        answers = np.empty(len(given), np.object_)
        answers[:] = [each.encode() for each in compute(given)]
        return answers

    fake = Fake(run, datatype="BYTES")
    (spec,) = fake.interface.inputs
    one = (spec.model_copy(update={"shape": (-1,)}),)
    fake.interface = fake.interface.model_copy(update={"inputs": one, "outputs": one})
    return fake


@pytest.mark.parametrize("separator", [";", ",", "\n"])
def test_texts_that_are_joined_and_split_again_are_found(separator: str) -> None:
    def joins(given: list[str]) -> list[str]:
        parts = separator.join(given).split(separator)
        return [part.upper() for part in [*parts, *parts[-1:] * len(given)]][: len(given)]

    assert "depends on the other rows" in reason(texts(joins))
    if separator != "\n":
        assert "depends on the other rows" in reason(texts(joins, refuses="\n"))
    assert WarmUp(texts(lambda given: [each.upper() for each in given])).find_out().merges
    lines = texts(lambda given: [each.upper() for each in given], refuses="\n")
    assert WarmUp(lines).find_out().merges


def flag(compute: Compute) -> Fake:
    """A model of one BOOL."""
    fake = Fake(compute, datatype="BOOL")
    (spec,) = fake.interface.inputs
    one = (spec.model_copy(update={"shape": (-1,)}),)
    fake.interface = fake.interface.model_copy(update={"inputs": one, "outputs": one})
    return fake


def test_all_rows_that_there_are_suffice() -> None:
    assert found(flag(lambda x: ~x)) == (12, None, True)
    example = {"x": np.array([True])}
    assert WarmUp(flag(lambda x: ~x), example=example).find_out().merges


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x ^ (x.sum() > 6),
        lambda x: x ^ ((~x).sum() > 6),
        lambda x: x ^ x[0],
        lambda x: np.sort(x),
        lambda x: x & x.all(),
    ],
)
def test_few_rows_that_depend_on_others_are_not_batched(compute: Compute) -> None:
    assert "depends on the other rows" in reason(flag(compute))


def test_some_of_few_rows_do_not_suffice() -> None:
    def strict(x: AnyArray) -> AnyArray:
        if not x.all():
            raise ExecutionError(FailureKind.INPUT, "only yes")
        return x

    assert "only 1 different trial rows ran" in reason(flag(strict))
    example = {"x": np.array([b"red", b"green", b"blue"], object)}
    fake = texts(lambda given: [each.upper() for each in given])
    picky = texts(lambda given: [{"red": "r", "green": "g", "blue": "b"}[each] for each in given])
    assert WarmUp(fake, example=example).find_out().merges
    assert "only 3 different" in WarmUp(picky, example=example).find_out().reason


@pytest.mark.parametrize("provider", ["torch cuda:0", "CUDAExecutionProvider", "pyfunc cuda:1"])
def test_on_a_gpu_made_up_integers_are_zeros_first_and_never_above_one(provider: str) -> None:
    def embed(x: AnyArray) -> AnyArray:
        if x.max() > 1:
            raise ExecutionError(FailureKind.FATAL, "device-side assert")
        return x * 2

    fake = Fake(embed, datatype="INT64")
    fake.provider = provider
    finding = WarmUp(fake).find_out()
    assert finding.merges
    assert execute_once(fake, finding, None)
    (spec,) = fake.interface.inputs
    first, *_ = candidates([spec], None, careful=True)
    assert not first["x"].any()


def test_on_a_gpu_integers_stay_among_those_of_the_example() -> None:
    (spec,) = Fake(datatype="INT64").interface.inputs
    for example in ([[3, 7, 5], [4, 4, 4]], [[3, 7, 5]], [[6]]):
        given = {"x": np.array(example)}
        rows = list(candidates([spec], given, careful=True))
        for choice in extremes(rows[:2], table=False, careful=True):
            rows += choice
        assert {row["x"].min() >= given["x"].min() for row in rows} == {True}
        assert {row["x"].max() <= given["x"].max() for row in rows} == {True}

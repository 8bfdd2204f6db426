"""What models return, turned into what their interface promises; and what they raise."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.pyfunc.scoring_server import predictions_to_json

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.runtimes.failures import as_execution_errors, kind_of
from penstock.worker.runtimes.frames import frame_of, result_of
from penstock.worker.runtimes.mlflow_model import Column
from penstock.worker.runtimes.results import ResultError, arrange, as_text, discover_outputs
from penstock.worker.session.outcomes import FailureKind


def spec(name: str, datatype: str = "FP64", *inner: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *inner))


TWO = [spec("a"), spec("b")]
A, B = np.array([1.0, 2.0]), np.array([3.0, 4.0])


@pytest.mark.parametrize(
    "returned",
    [
        pd.DataFrame({"b": B, "a": A}),
        {"b": B, "a": A.tolist(), "c": [0]},
        (A, B),
        [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 4.0}],
        {"first": A, "second": B},
    ],
)
def test_two_outputs_by_name_or_in_order(returned: Any) -> None:
    arrays = arrange(result_of(returned, TWO), TWO)
    assert [array.tolist() for array in arrays] == [A.tolist(), B.tolist()]


@pytest.mark.parametrize(
    "returned", [A, A.tolist(), pd.Series(A), pd.DataFrame({"x": A}), {"x": A}, A.reshape(2, 1)]
)
def test_one_output(returned: Any) -> None:
    (array,) = arrange(result_of(returned, [spec("y")]), [spec("y")])
    assert array.tolist() == A.tolist()


def test_a_frame_as_one_output() -> None:
    specs = [spec("y", "FP32", 2)]
    (array,) = arrange(result_of(pd.DataFrame({"a": A, "b": B}), specs), specs)
    assert array.dtype == np.float32
    assert array.tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (np.ones((2, 3)), r"shape \[2, 3\]"),
        (np.array(["a", "b"]), "not FP64"),
        ((A, B), "2 arrays for 1 outputs"),
        (None, "returned NoneType"),
        ("yes", "returned str"),
    ],
)
def test_what_is_not_as_promised_is_told(returned: Any, words: str) -> None:
    with pytest.raises(ResultError, match=words):
        arrange(result_of(returned, [spec("y")]), [spec("y")])


def test_text_and_times_and_what_is_missing() -> None:
    texts = np.array(["é", b"\xff", None, float("nan"), 7], dtype=object)
    assert as_text(texts).tolist() == ["é".encode(), b"\xff", b"", b"", b"7"]
    times = np.array(["2020-01-02T03:04", "NaT"], "datetime64[s]")
    assert as_text(times).tolist() == [b"2020-01-02T03:04:00", b""]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("fraction", ["", ".5", ".123456", ".123456789"])
def test_times_are_written_as_mlflow_writes_them(unit: str, fraction: str) -> None:
    frame = pd.DataFrame({"t": np.array([f"2024-01-02T00:00:00{fraction}"], f"datetime64[{unit}]")})
    answer = io.StringIO()
    predictions_to_json(frame, answer)
    (row,) = json.loads(answer.getvalue())["predictions"]
    for returned in (frame, frame.astype(object)):
        text = [spec("t", "BYTES")]
        (array,) = arrange(result_of(returned, text), text)
        assert array.tolist() == [row["t"].encode()]
    if not fraction:
        assert row["t"] == "2024-01-02T00:00:00"


MIXED: list[Any] = [1, 2.5, True, "a", b"c\0", None]
MIXED_TEXTS = [b"1", b"2.5", b"True", b"a", b"c\0", b""]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_each_text_is_its_own_whatever_numbers_are_beside_it(count: int) -> None:
    values, texts = MIXED[:count], MIXED_TEXTS[:count]
    text = [spec("t", "BYTES")]
    rows = [{"t": value} for value in values]
    for returned in (values, {"t": values}, (values,), rows, pd.Series(values, dtype=object)):
        (array,) = arrange(result_of(returned, text), text)
        assert array.tolist() == texts, returned
    both = [*text, spec("n")]
    numbers = [n / 2 for n in range(count)]
    for of_both in (
        {"t": values, "n": [1, *numbers[1:]]},
        {"first": values, "second": numbers},
        (values, numbers),
        [{"n": number, "t": value} for value, number in zip(values, numbers, strict=True)],
    ):
        array, floats = arrange(result_of(of_both, both), both)
        assert array.tolist() == texts
        assert floats.dtype.name == "float64"


def test_columns_of_one_text_output_keep_their_own_numbers() -> None:
    wide = [spec("t", "BYTES", 2)]
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.0]})
    rows = [{0: 1, 1: 0.5}, {0: 2, 1: 1.0}]
    for returned in (frame, frame.to_dict("records"), rows, [[1, 0.5], [2, 1.0]]):
        (array,) = arrange(result_of(returned, wide), wide)
        assert array.tolist() == [[b"1", b"0.5"], [b"2", b"1.0"]]


def test_outputs_are_found_out_by_a_trial() -> None:
    outputs = discover_outputs(
        lambda inputs: {"label": np.array(["x"]), "score": inputs["x"][:, :1]},
        [spec("x", "FP32", 4)],
    )
    assert outputs == (spec("label", "BYTES"), spec("score", "FP32", 1))


def test_columns_keep_their_kinds_in_a_frame() -> None:
    raw = np.array([b"2020-01-02T03:04:05"], object)
    columns = [Column("t", "datetime"), Column("s", "string"), Column("b", "binary")]
    frame = frame_of({"t": raw, "s": raw, "b": raw}, columns)
    assert frame["t"].dtype.kind == "M"
    assert frame["s"].tolist() == ["2020-01-02T03:04:05"]
    assert frame["b"].tolist() == [b"2020-01-02T03:04:05"]
    assert list(frame_of({"s": raw}, columns)) == ["s"]


class AcceleratorError(RuntimeError):
    """Named as PyTorch's own."""


@pytest.mark.parametrize(
    ("error", "device", "trust", "kind"),
    [
        (MemoryError(), "cpu", False, FailureKind.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory."), "cuda:0", True, FailureKind.OUT_OF_MEMORY),
        (AcceleratorError("device-side assert"), "cuda:0", False, FailureKind.FATAL),
        (RuntimeError("CUDA error: x"), "cuda:0", True, FailureKind.FATAL),
        (RuntimeError("CUDA error: x"), "cpu", True, FailureKind.INPUT),
        (ValueError("no such word: CUDA error"), "cuda:0", False, FailureKind.INPUT),
        (SystemExit(3), "cpu", False, FailureKind.INPUT),
    ],
)
def test_what_an_exception_means(
    error: BaseException, device: str, trust: bool, kind: FailureKind
) -> None:
    assert kind_of(error, device, trust_words=trust) is kind
    with pytest.raises(ExecutionError) as told_so, as_execution_errors(device, trust_words=trust):
        raise error
    assert told_so.value.kind is kind

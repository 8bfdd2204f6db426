"""Models that take or give what no tensor carries, as a replica runs them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, DataType

from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.base import ExecutionError, Runtime
from penstock.worker.runtimes.mlflow_model import read_mlmodel
from penstock.worker.runtimes.open_pyfunc import JSON_OUTPUT, tensors_of
from penstock.worker.runtimes.registry import load_runtime
from penstock.worker.runtimes.results import ResultError
from penstock.worker.runtimes.scoring.scorer import TEXT_BYTES_MAX
from penstock.worker.session.outcomes import FailureKind
from tests.parity import agents, python_models
from tests.support.mlflow_models import NUMBERS, python_model

pytestmark = pytest.mark.costly

ARRAYS = ModelSignature(Schema([ColSpec(Array(DataType.double), "v"), ColSpec("long", "n")]))


def loaded(folder: Path) -> Runtime:
    return load_runtime(
        folder,
        read_mlmodel(folder),
        max_batch_size=8,
        device="cpu",
        threads=1,
        allow_cpu_fallback=False,
    )


def texts(*given: str) -> AnyArray:
    array = np.empty(len(given), object)
    array[:] = [each.encode() for each in given]
    return array


def run(runtime: Runtime, **inputs: AnyArray) -> dict[str, Any]:
    answer = runtime.execute(inputs)
    assert isinstance(answer, dict)
    return {name: array.tolist() for name, array in answer.items()}


def scored(runtime: Runtime, body: Any, kind: str = "application/json", **more: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert runtime.scorer is not None
    parameters = tuple(sorted({"content_type": kind, **more}.items()))
    answer = runtime.scorer.score(content, parameters)
    return answer.shape[-1], json.loads(bytes(answer.data))


def test_structured_columns_are_texts_in_json(tmp_path: Path) -> None:
    def predict(frame: Any, params: Any) -> Any:
        return frame["v"].map(sum) + frame["n"]

    runtime = loaded(python_model(tmp_path / "m", predict, ARRAYS))
    v, n = runtime.interface.inputs
    assert (v.datatype, v.shape, v.structured) == ("BYTES", (-1,), True)
    assert (n.datatype, n.structured) == ("INT64", False)
    answer = run(runtime, v=texts("[1, 2.5]", "[]"), n=np.array([1, 2]))
    assert answer == {"output-0": [4.5, 2.0]}
    for odd in ("[1", '["a"]', "{}"):
        with pytest.raises(ExecutionError) as refused:
            run(runtime, v=texts(odd), n=np.array([1]))
        assert refused.value.kind is FailureKind.REFUSED


def test_a_chat_model_is_called_for_one(tmp_path: Path) -> None:
    python_models.saved(agents.chat_model)(tmp_path / "m")
    runtime = loaded(tmp_path / "m")
    (answer,) = run(runtime, messages=texts(json.dumps(agents.TALK)))[JSON_OUTPUT]
    assert json.loads(answer)["choices"][0]["message"]["content"].startswith("What is 2 + 2?")
    with pytest.raises(ExecutionError, match="expected 1 element") as refused:
        run(runtime, messages=texts("[]", "[]"))
    assert refused.value.kind is FailureKind.REFUSED


def test_type_hints_are_given_a_list(tmp_path: Path) -> None:
    python_models.saved(python_models.texts_to_texts)(tmp_path / "m")
    assert run(loaded(tmp_path / "m"), **{"input-0": texts("a", "ü")}) == {
        "output-0": [b"A", "Ü".encode()]
    }


def test_without_a_signature_names_and_shapes_come_with_the_request(tmp_path: Path) -> None:
    def predict(given: Any, params: Any) -> Any:
        kind = type(given).__name__
        return [f"{kind} {list(given)}" if isinstance(given, dict) else f"{kind} {given.shape}"]

    runtime = loaded(python_model(tmp_path / "m", predict, None))
    assert runtime.interface.open_inputs
    column, matrix = np.array([1.0, 2.0]), np.ones((2, 3))
    assert run(runtime, x=matrix) == {"output-0": [b"ndarray (2, 3)"]}
    assert run(runtime, x=column, y=column) == {"output-0": [b"DataFrame (2, 2)"]}
    assert run(runtime, x=column, y=matrix) == {"output-0": [b"dict ['x', 'y']"]}


@pytest.mark.parametrize(
    ("returned", "names", "expected"),
    [
        (np.array([1, 2]), (), {"output-0": [1, 2]}),
        (np.array([1, 2]), ("y",), {"y": [1, 2]}),
        (pd.DataFrame({"a": [1.5], "t": ["x"]}), (), {"a": [1.5], "t": [b"x"]}),
        (pd.DataFrame({"a": [1.5], "t": [None]}), (), {"json": [b'[{"a":1.5,"t":null}]']}),
        (pd.DataFrame({"v": [[1, 2]]}), (), {"json": [b'[{"v":[1,2]}]']}),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), (), {"json": [b'[{"1": 1, "1": 2}]']}),
        ({"a": np.array([1])}, (), {"a": [1]}),
        ({"a": [1], "b": "x"}, (), {"json": [b'{"a":[1],"b":"x"}']}),
        (["a", "b"], (), {"output-0": [b"a", b"b"]}),
        (["a", None], (), {"json": [b'["a",null]']}),
        ([[1], [2, 3]], (), {"json": [b"[[1],[2,3]]"]}),
        ("done", (), {"json": [b'"done"']}),
        (None, (), {"json": [b"null"]}),
        ([float("nan")], (), {"json": [b"[null]"]}),
        (pd.Series(pd.to_datetime(["2024-01-02"])), (), {"output-0": [b"2024-01-02T00:00:00"]}),
    ],
)
def test_what_is_returned_is_tensors_or_else_one_text(
    returned: Any, names: tuple[str, ...], expected: dict[str, Any]
) -> None:
    found = {name: array.tolist() for name, array in tensors_of(returned, names).items()}
    assert found == expected


def test_a_model_that_raises_fails_and_mlflows_refusals_are_answers(tmp_path: Path) -> None:
    def predict(frame: Any, params: Any) -> Any:
        raise ValueError("too odd")

    runtime = loaded(python_model(tmp_path / "m", predict, ARRAYS))
    with pytest.raises(ExecutionError, match="ValueError: too odd") as failed:
        scored(runtime, {"dataframe_records": [{"v": [1.0], "n": 1}]})
    assert failed.value.kind is FailureKind.INPUT
    for body, kind in (
        (b"{", "application/json"),
        ({"data": []}, "application/json"),
        ({"inputs": {"v": ["x"], "n": [1]}}, "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"\xff", "text/csv"),
        (b"PAR1", "application/vnd.apache.parquet"),
    ):
        status, document = scored(runtime, body, kind)
        assert (status, set(document)) == (400, {"error_code", "message"}), document
        assert "Traceback" not in document["message"]
        assert len(document["message"]) < 5000


def test_an_exception_of_mlflows_that_blames_the_server_is_a_failure(tmp_path: Path) -> None:
    def predict(x: Any, params: Any) -> Any:
        raise MlflowException("broken", error_code=INTERNAL_ERROR)

    runtime = loaded(python_model(tmp_path / "m", predict, NUMBERS))
    with pytest.raises(ExecutionError, match="broken"):
        scored(runtime, {"inputs": [1.0]})


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    runtime = loaded(python_model(tmp_path / "m", lambda x, params: [np.nan, "NaN"], None))
    assert scored(runtime, {"inputs": [1]}) == (200, {"predictions": [None, "NaN"]})


def test_parquet_is_bounded_by_what_it_says_of_itself(tmp_path: Path) -> None:
    runtime = loaded(python_model(tmp_path / "m", lambda x, params: len(x), None))
    target = io.BytesIO()
    pd.DataFrame({"x": np.zeros(100_000)}).to_parquet(target)
    kind = "application/vnd.apache.parquet"
    status, said = scored(runtime, target.getvalue(), kind, max_elements=99_999)
    assert (status, "at most 99999 values" in said["message"]) == (400, True)
    assert scored(runtime, target.getvalue(), kind, max_elements=100_000) == (
        200,
        {"predictions": 100_000},
    )


def test_texts_of_parquet_are_bounded_by_what_they_come_to(tmp_path: Path) -> None:
    runtime = loaded(python_model(tmp_path / "m", lambda x, params: len(x), None))
    kind = "application/vnd.apache.parquet"
    for rows, expected in ((10, 200), (TEXT_BYTES_MAX // 1_000_000 + 1, 400)):
        target = io.BytesIO()
        pd.DataFrame({"t": ["x" * 1_000_000] * rows, "n": range(rows)}).to_parquet(target)
        assert len(target.getvalue()) < 2_000_000
        status, said = scored(runtime, target.getvalue(), kind, max_elements=10_000)
        assert status == expected, said
    target = io.BytesIO()
    pd.DataFrame({"v": [[0] * 20_000]}).to_parquet(target)
    status, said = scored(runtime, target.getvalue(), kind, max_elements=10_000)
    assert (status, "got 20000" in said["message"]) == (400, True)


def test_answers_that_are_none_of_the_signatures_leave_outputs_open(tmp_path: Path) -> None:
    signature = ModelSignature(
        NUMBERS.inputs, Schema([ColSpec("double", "a"), ColSpec("long", "b")])
    )
    runtime = loaded(python_model(tmp_path / "m", lambda x, params: ["x"] * 3, signature))
    with pytest.raises(ResultError):
        runtime.execute({"input-0": np.array([1.0])})
    opened = runtime.opened()
    assert opened is not None
    assert run(opened, **{"input-0": np.array([1.0])}) == {"output-0": [b"x"] * 3}

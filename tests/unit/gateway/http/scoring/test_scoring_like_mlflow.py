"""Answers side by side with MLflow's own scoring code, for models that MLflow itself loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from mlflow.models import infer_signature
from mlflow.pyfunc.scoring_server import invocations
from onnx import TensorProto, helper

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import AnyArray
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, interface, spec
from tests.unit.gateway.http.scoring.test_scoring import post

X = [[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 0.0, 0.25]]
FRAME = pd.DataFrame({"age": [1.5, np.nan], "count": [2, 3], "city": ["Ulm", "Bonn"]})


def python_interface(inputs: list[TensorSpec], outputs: list[TensorSpec]) -> ModelInterface:
    made = interface(inputs, outputs, max_batch_size=8)
    return made.model_copy(update={"platform": "mlflow_pyfunc"})


class Sums(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """An array for an array, as scikit-learn's estimators return it."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # hints are read by MLflow
        return np.asarray(model_input).sum(axis=1)


class Scores(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A data frame for a data frame."""

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # hints are read by MLflow
        return pd.DataFrame(
            {"score": model_input["age"].fillna(-1.0) + model_input["count"], "label": "x"}
        )


def scores(arrays: dict[str, AnyArray]) -> dict[str, AnyArray]:
    score = np.nan_to_num(arrays["age"], nan=-1.0) + arrays["count"]
    return {"score": score, "label": np.array([b"x"] * len(score), object)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    matrix = np.array(X)
    none: list[str] = []
    mlflow.pyfunc.save_model(
        folder / "sums",
        python_model=Sums(),
        signature=infer_signature(matrix, matrix.sum(axis=1)),
        pip_requirements=none,
    )
    labels = pd.DataFrame({"score": [1.0], "label": ["x"]})
    mlflow.pyfunc.save_model(
        folder / "scores",
        python_model=Scores(),
        signature=infer_signature(FRAME.dropna(), labels),
        pip_requirements=none,
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0, axes=[1]),
            helper.make_node("Neg", ["x"], ["negative"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("negative", TensorProto.FLOAT, [None, 4]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    onnx.checker.check_model(model)
    signature = infer_signature({"x": matrix.astype(np.float32)})
    mlflow.onnx.save_model(model, folder / "two", signature=signature, pip_requirements=none)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> dict[str, Any]:
    return {
        name: mlflow.pyfunc.load_model(str(folder / name)) for name in ("sums", "scores", "two")
    }


@pytest.fixture
def service() -> FakeInference:
    frame = [spec("age", "FP64", -1), spec("count", "INT64", -1), spec("city", "BYTES", -1)]
    outputs = [spec("score", "FP64", -1), spec("label", "BYTES", -1)]
    matrix = python_interface([spec("input-0", "FP64", -1, 4)], [spec("output-0", "FP64", -1)])
    two = interface(
        [spec("x", "FP32", -1, 4)],
        [spec("sum", "FP32", -1), spec("negative", "FP32", -1, 4)],
        max_batch_size=8,
    )
    return FakeInference(
        models={
            "sums": FakeModel(matrix, lambda arrays: {"output-0": arrays["input-0"].sum(axis=1)}),
            "scores": FakeModel(python_interface(frame, outputs), scores),
            "two": FakeModel(two, lambda a: {"sum": a["x"].sum(axis=1), "negative": -a["x"]}),
        }
    )


SPLIT: dict[str, list[Any]] = {
    "columns": ["age", "count", "city"],
    "data": [[1.5, 2, "Ulm"], [None, 3, "Bonn"]],
}
RECORDS = [dict(zip(SPLIT["columns"], row, strict=True)) for row in SPLIT["data"]]


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("sums", {"inputs": X}),
        ("sums", {"instances": X}),
        ("sums", {"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": X}}),
        ("sums", {"dataframe_records": [dict(zip("abcd", row, strict=True)) for row in X]}),
        ("scores", {"dataframe_split": SPLIT}),
        ("scores", {"dataframe_split": {**SPLIT, "index": [5, 6]}}),
        ("scores", {"dataframe_records": RECORDS}),
        ("scores", {"inputs": {"age": [1.5, 2], "count": [2, 3], "city": ["Ulm", "Bonn"]}}),
        ("scores", {"instances": [{"age": 1.5, "count": 2, "city": "Ulm"}]}),
        ("scores", FRAME.to_csv(index=False)),
        ("two", {"inputs": {"x": X}}),
        ("two", {"inputs": X}),
        ("two", {"instances": X}),
        ("two", {"instances": [{"x": row} for row in X]}),
    ],
)
async def test_answers_are_mlflows(
    loaded: dict[str, Any], service: FakeInference, model: str, body: Any
) -> None:
    is_csv = isinstance(body, str)
    kind = "text/csv" if is_csv else "application/json"
    text = body if is_csv else json.dumps(body)
    schema = loaded[model].metadata.get_input_schema()
    theirs = invocations(text, kind, loaded[model], schema)
    assert theirs.status == 200
    answer = await post(
        service, f"/v2/models/{model}/invocations", text.encode(), content_type=kind
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == json.loads(theirs.response)


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"inputs": X, "instances": X}),
        json.dumps({"dataframe_split": {"columns": ["a"], "rows": [1]}}),
        json.dumps({"dataframe_records": {"a": 1}}),
        json.dumps({"inputs": [[1, 2], [3]]}),
    ],
)
async def test_refusals_are_mlflows(
    loaded: dict[str, Any], service: FakeInference, body: str
) -> None:
    schema = loaded["sums"].metadata.get_input_schema()
    with pytest.raises(mlflow.exceptions.MlflowException) as caught:
        invocations(body, "application/json", loaded["sums"], schema)
    answer = await post(service, "/v2/models/sums/invocations", body.encode())
    assert answer.status_code == caught.value.get_http_status_code()
    assert answer.json()["error_code"] == caught.value.error_code
    assert set(answer.json()) == {"error_code", "message"}

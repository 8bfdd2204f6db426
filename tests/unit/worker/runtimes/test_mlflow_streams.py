"""Streams of models that MLflow logged, through its own `predict_stream`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types import TensorSpec as MlflowTensorSpec

from penstock.deploy.local.demo.diffusion import SIGNATURE
from penstock.deploy.local.demo.diffusion_model import WEIGHTS, DigitsDiffusion
from penstock.deploy.local.demo.diffusion_training import fresh_weights
from penstock.shared.artifacts.folder import manifest_of
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.payload import unpack_result
from penstock.shared.wire.messages import Parameters, Request
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from penstock.worker.jobs.stream import Told, run_stream
from penstock.worker.replica.executor import run_batch
from penstock.worker.runtimes.base import Runtime, StreamingRuntime
from penstock.worker.runtimes.registry import describe, load_runtime
from penstock.worker.session.outcomes import Completed, Failed

Save = Callable[..., Runtime]


def loaded(folder: Path) -> Runtime:
    return load_runtime(
        folder, describe(folder), max_batch_size=4, device="cpu", threads=1, allow_cpu_fallback=True
    )


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a model whose `predict_stream` is a function of (input, params), and loads it."""

    def saved(
        stream: Callable[[Any, Any], Iterator[Any]],
        inputs: Schema,
        outputs: Schema,
        params: ParamSchema | None = None,
    ) -> Runtime:
        class Custom(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
            def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
                return pd.DataFrame({"text": ["whole"] * len(model_input)})

            def predict_stream(self, context: Any, model_input: Any, params: Any = None) -> Any:
                yield from stream(model_input, params)

        mlflow.pyfunc.save_model(
            str(tmp_path / "m"),
            python_model=Custom(),
            signature=ModelSignature(inputs=inputs, outputs=outputs, params=params),
            pip_requirements=[],
        )
        assert manifest_of(tmp_path / "m").streams
        return loaded(tmp_path / "m")

    return saved


def request(inputs: Mapping[str, AnyArray], parameters: Parameters = ()) -> Request:
    tensors = tuple(tensor_from_array(name, array) for name, array in inputs.items())
    return Request(0, 0, tensors, parameters=parameters)


def run(runtime: Runtime, asked: Request) -> tuple[Any, list[Told]]:
    """The answer, by name, and what was told before."""
    told: list[Told] = []
    outcome = run_stream(runtime, asked, told.append, lambda: False)
    assert isinstance(outcome, Completed), outcome
    (outputs,) = outcome.outputs
    return {each.name: array_from_tensor(each) for each in outputs}, told


TEXT = Schema([ColSpec("string", "text")])


def test_columns_come_as_a_mapping_and_parameters_too(save: Save) -> None:
    def stream(row: Any, params: Any) -> Iterator[Any]:
        assert isinstance(row, dict)
        yield {"progress": 0.5, "message": row["name"]}
        yield f"{row['name']} is {row['age']}"
        yield pd.DataFrame({"text": [row["name"] * params["times"]]})

    runtime = save(
        stream,
        Schema([ColSpec("string", "name"), ColSpec("long", "age")]),
        TEXT,
        ParamSchema([ParamSpec("times", "long", 1)]),
    )
    assert runtime.interface.streams
    name, age = np.array([b"a"], np.object_), np.array([7], np.int64)
    answer, told = run(runtime, request({"name": name, "age": age}, (("times", 3),)))
    assert answer["text"].tolist() == [b"aaa"]
    assert told[0] == Progress(0.5, "a")
    assert isinstance(told[1], tuple)
    (first,) = unpack_result(told[1][1]).final.outputs
    assert array_from_tensor(first).tolist() == [b"a is 7"]


def test_one_tensor_without_a_name_comes_as_a_list(save: Save) -> None:
    inputs = Schema([MlflowTensorSpec(np.dtype(np.float32), (-1, 2))])
    runtime = save(lambda row, _: iter([str(row)]), inputs, TEXT)
    answer, _ = run(runtime, request({"input-0": np.array([[1, 2]], np.float32)}))
    assert answer["text"].tolist() == [b"[1.0, 2.0]"]


def test_several_rows_are_predicted_at_once(save: Save) -> None:
    runtime = save(lambda row, _: iter([]), Schema([ColSpec("long", "age")]), TEXT)
    answer, told = run(runtime, request({"age": np.arange(3)}))
    assert answer["text"].tolist() == [b"whole"] * 3
    assert told == []


def test_what_a_model_raises_or_mlflow_refuses_is_a_failure(save: Save) -> None:
    def stream(row: Any, _: Any) -> Iterator[Any]:
        yield "begun"
        raise ValueError("bad row")

    runtime = save(stream, Schema([ColSpec("long", "age")]), TEXT)
    told: list[Told] = []
    outcome = run_stream(runtime, request({"age": np.arange(1)}), told.append, lambda: False)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "ValueError: bad row"
    assert len(told) == 1
    outcome = run_stream(runtime, request({"age": np.array([0.5])}), told.append, lambda: False)
    assert isinstance(outcome, Failed)
    assert "Failed to enforce schema" in outcome.reason


def test_a_model_that_does_not_stream(tmp_path: Path) -> None:
    class Custom(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return pd.DataFrame({"text": ["whole"]})

    signature = ModelSignature(inputs=Schema([ColSpec("long", "age")]), outputs=TEXT)
    folder = tmp_path / "m"
    mlflow.pyfunc.save_model(
        str(folder), python_model=Custom(), signature=signature, pip_requirements=[]
    )
    assert not manifest_of(folder).streams
    runtime = loaded(folder)
    assert not runtime.interface.streams
    assert run(runtime, request({"age": np.arange(1)}))[0]["text"].tolist() == [b"whole"]


def test_the_demo_draws_step_by_step(tmp_path: Path) -> None:
    weights = tmp_path / "weights.npz"
    np.savez(weights, allow_pickle=False, **fresh_weights(np.random.default_rng(1)))
    mlflow.pyfunc.save_model(
        str(tmp_path / "m"),
        python_model=DigitsDiffusion(),
        artifacts={WEIGHTS: str(weights)},
        signature=SIGNATURE,
        pip_requirements=[],
    )
    runtime = loaded(tmp_path / "m")
    assert isinstance(runtime, StreamingRuntime)
    row = {"digit": np.array([3]), "steps": np.array([5]), "seed": np.array([1])}
    answer, told = run(runtime, request(row))
    assert answer["image"].shape == (1, 8, 8)
    assert told[0] == Progress(0.2, "step 1 of 5")
    assert [type(each) for each in told] == [Progress, tuple] * 5
    whole = run_batch(runtime, [request(row)])
    assert isinstance(whole, Completed)
    ((image,),) = whole.outputs
    assert (array_from_tensor(image) == answer["image"]).all()

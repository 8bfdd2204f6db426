"""Python models and scikit-learn's, saved by MLflow, and whether each may be batched.

What `predict` does is made inside functions, so that it is pickled by value: a replica cannot
import these tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from tests.zoo.cases import BATCHED, NOT_BATCHED, Answers, Batching, Case, Inputs, Library
from tests.zoo.onnx_cases import numbers

UNNAMED = "input-0"
Predict = Callable[[Any, Any], Any]


def tensors_in(*out: int) -> ModelSignature:
    """[-1, 4] in, [-1, *out] out, FP64."""
    return ModelSignature(
        Schema([TensorSpec(np.dtype("float64"), (-1, 4))]),
        Schema([TensorSpec(np.dtype("float64"), (-1, *out))]),
    )


def columns(given: dict[str, str], out: dict[str, str]) -> ModelSignature:
    """Columns by their types, in and out."""
    return ModelSignature(
        Schema([ColSpec(kind, name) for name, kind in given.items()]),
        Schema([ColSpec(kind, name) for name, kind in out.items()]),
    )


PAY = columns({"pay": "double", "age": "double"}, {"y": "double"})
TEXT = columns({"text": "string"}, {"y": "string"})


def python(
    predict: Predict, signature: ModelSignature, example: Any = None
) -> Callable[[Path], Library]:
    """The way to save a PythonModel that predicts so."""

    def make(folder: Path) -> Library:
        class Custom(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
            def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
                return predict(self, model_input)

        mlflow.pyfunc.save_model(
            str(folder),
            python_model=Custom(),
            signature=signature,
            input_example=example,
            pip_requirements=[],
        )
        return by_mlflow(folder, signature)

    return make


def fitted(model: Any, width: int) -> Callable[[Path], Library]:
    """The way to save a model of scikit-learn's."""

    def make(folder: Path) -> Library:
        signature = tensors_in(*([width] if width > 1 else []))
        mlflow.sklearn.save_model(
            model,
            str(folder),
            signature=signature,
            pip_requirements=[],
            serialization_format="cloudpickle",
        )
        return by_mlflow(folder, signature)

    return make


def by_mlflow(folder: Path, signature: ModelSignature) -> Library:
    """MLflow's own way to run a saved model."""
    model = mlflow.pyfunc.load_model(str(folder))
    tabular = not signature.inputs.is_tensor_spec()

    def run(inputs: Inputs) -> Answers:
        table = {name: array.copy() for name, array in inputs.items()}
        answer = model.predict(pd.DataFrame(table) if tabular else table[UNNAMED])
        if isinstance(answer, pd.DataFrame):
            return [answer[name].to_numpy() for name in answer]
        return [np.asarray(answer)]

    return run


def rows() -> list[Inputs]:
    """Four requests of a row, and one of three."""
    return [{UNNAMED: numbers(count, 4, dtype="float64")} for count in (1, 1, 1, 1, 3)]


def people(*counts: int) -> list[Inputs]:
    """Requests of so many rows of two columns each."""
    return [
        {name: numbers(count, dtype="float64") for name in ("pay", "age")}
        for count in counts or (1, 1, 1, 2, 3)
    ]


TEXTS: list[Inputs] = [
    {"text": np.array(each, object)} for each in (["Ab"], ["cD"], ["Grüße"], ["x", "yz"])
]


def of_tensors(name: str, predict: Predict, batching: Batching, *out: int) -> Case:
    """A case of a PythonModel on an array of four columns."""
    return Case(name, python(predict, tensors_in(*out)), rows(), batching)


def of_frame(
    name: str, predict: Predict, batching: Batching, requests: Sequence[Inputs] = ()
) -> list[Case]:
    """Two cases of a PythonModel on a frame: without an example, and with one."""
    example = pd.DataFrame({"pay": [1.0, 5.0, 2.0], "age": [30.0, 20.0, 40.0]})
    asked = requests or people()
    return [
        Case(name, python(predict, PAY), asked, batching),
        Case(f"{name}-example", python(predict, PAY, example), asked, batching),
    ]


def counting(model: Any, x: Any) -> Any:
    """Adds how often it was called: no two answers are the same."""
    model.calls = getattr(model, "calls", 0) + 1
    return x + model.calls


def noise(model: Any, x: Any) -> Any:
    """Adds chance."""
    import numpy  # noqa: PLC0415 - runs in the replica

    return x + numpy.random.default_rng().normal(size=x.shape)


def of_table() -> list[Case]:
    """What is done to a frame."""
    return [
        *of_frame("ratio", lambda _, t: pd.DataFrame({"y": t["pay"] * 2 + t["age"]}), BATCHED),
        *of_frame("rank", lambda _, t: pd.DataFrame({"y": t["pay"].rank()}), NOT_BATCHED),
        *of_frame(
            "share", lambda _, t: pd.DataFrame({"y": t["pay"] / t["pay"].sum()}), NOT_BATCHED
        ),
        *of_frame(
            "sorts",
            lambda _, t: pd.DataFrame({"y": t["pay"].sort_values().to_numpy()}),
            NOT_BATCHED,
        ),
        *of_frame(
            "drops",
            lambda _, t: pd.DataFrame({"y": t["pay"][t["pay"] > 0].to_numpy()}),
            NOT_BATCHED,
        ),
        *of_frame(
            "repeats",
            lambda _, t: pd.DataFrame({"y": np.repeat(t["pay"].to_numpy(), 2)}),
            NOT_BATCHED,
        ),
        *of_frame("total", lambda _, t: pd.DataFrame({"y": [t["pay"].sum()]}), NOT_BATCHED),
        *of_frame(
            "groups",
            lambda _, t: pd.DataFrame({"y": t["pay"].groupby(t["age"] > 0).sum().to_numpy()}),
            NOT_BATCHED,
        ),
        Case(
            "shouts",
            python(lambda _, t: pd.DataFrame({"y": t["text"].str.upper()}), TEXT),
            TEXTS,
            BATCHED,
        ),
        Case(
            "joins",
            python(lambda _, t: pd.DataFrame({"y": ["".join(t["text"])] * len(t)}), TEXT),
            TEXTS,
            NOT_BATCHED,
        ),
    ]


def moody(_: Any, x: Any) -> Any:
    """Refuses what is not between -40 and 40 in any row, as what is made up may be."""
    if abs(x).max() == 0 or abs(x).max() > 1e3 or (x == x.astype("int64")).all():
        raise ValueError("no such row was seen in training")
    return x * 2


def magic(_: Any, frame: Any) -> Any:
    """The last byte of each picture; refuses what is none."""
    if not frame["picture"].map(lambda each: each[:4] == b"\x89PNG").all():
        raise ValueError("no picture")
    return pd.DataFrame({"y": frame["picture"].map(lambda each: each[-1])})


PICTURES = [b"\x89PNG" + bytes(range(64)) + bytes([n]) for n in range(5)]

STILL = DecisionTreeRegressor(random_state=0).fit(np.eye(4), [1.0, 2.0, 3.0, 4.0])
SCALER = StandardScaler().fit(np.arange(16.0).reshape(4, 4) ** 2)

CASES = [
    *of_table(),
    of_tensors("doubles", lambda _, x: x * 2, BATCHED, 4),
    of_tensors("row-sums", lambda _, x: x.sum(axis=1), BATCHED),
    of_tensors("centred", lambda _, x: x - x.mean(axis=0), NOT_BATCHED, 4),
    of_tensors("argsort", lambda _, x: x[x[:, 0].argsort()], NOT_BATCHED, 4),
    of_tensors("mean", lambda _, x: x.mean(axis=0, keepdims=True), NOT_BATCHED, 4),
    of_tensors("reversed", lambda _, x: x[::-1], NOT_BATCHED, 4),
    Case("noise", python(noise, tensors_in(4)), rows(), NOT_BATCHED, repeatable=False),
    Case("counts-calls", python(counting, tensors_in(4)), rows(), NOT_BATCHED, repeatable=False),
    Case(
        "refuses-made-up",
        python(moody, tensors_in(4), numbers(5, 4, dtype="float64")),
        rows(),
        BATCHED,
    ),
    Case(
        "pictures",
        python(
            magic,
            columns({"picture": "binary"}, {"y": "long"}),
            pd.DataFrame({"picture": PICTURES}),
        ),
        [{"picture": np.array([each], object)} for each in PICTURES],
        BATCHED,
    ),
    Case("tree", fitted(STILL, 1), rows(), BATCHED),
]

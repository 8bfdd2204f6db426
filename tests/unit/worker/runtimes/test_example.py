"""Input examples as MLflow itself keeps them beside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.mlflow_model import column_specs, read_mlmodel
from penstock.worker.trial.example import read_example

LONG = bytes(range(256))
"""MLflow breaks its base64 into lines."""


def example(folder: Path, given: Any) -> dict[str, AnyArray] | None:
    class Anything(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return [1] * len(model_input)

    mlflow.pyfunc.save_model(
        str(folder), python_model=Anything(), input_example=given, pip_requirements=[]
    )
    mlmodel = read_mlmodel(folder)
    assert mlmodel is not None
    assert mlmodel.input_columns is not None
    return read_example(folder, mlmodel, column_specs(mlmodel.input_columns, "input"))


@pytest.mark.parametrize(
    "given",
    [
        pd.DataFrame({"b": [LONG, b"", b"x"], "t": ["a", "AAE=", "c"]}),
        [{"b": LONG, "t": "a"}, {"b": b"", "t": "AAE="}, {"b": b"x", "t": "c"}],
    ],
)
def test_binary_columns_are_read_as_mlflow_writes_them(tmp_path: Path, given: Any) -> None:
    read = example(tmp_path / "m", given)
    assert read is not None
    assert read["b"].tolist() == [LONG, b"", b"x"]
    assert read["t"].tolist() == [b"a", b"AAE=", b"c"]

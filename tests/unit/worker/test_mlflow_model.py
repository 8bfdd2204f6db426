"""What is read out of an `MLmodel` file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.deployment import ParameterSpec
from shared.tensor_spec import TensorSpec
from worker.mlflow_model import Column, MLmodelError, column_specs, named, read_mlmodel


def write(folder: Path, **signature: Any) -> Path:
    packed = {side: json.dumps(entries) for side, entries in signature.items()}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {}, "signature": packed}))
    return folder


def test_a_signature_of_columns(tmp_path: Path) -> None:
    kinds = ["double", "float", "integer", "long", "boolean", "string", "binary", "datetime"]
    entries = [{"type": kind, "name": kind, "required": kind != "long"} for kind in kinds]
    mlmodel = read_mlmodel(write(tmp_path, inputs=entries))
    assert mlmodel is not None
    assert mlmodel.inputs is None
    assert mlmodel.input_columns is not None
    assert mlmodel.input_columns[3] == Column("long", "long", required=False)
    specs = column_specs(mlmodel.input_columns, "input")
    assert {spec.shape for spec in specs} == {(-1,)}
    assert [spec.datatype for spec in specs] == [
        *("FP64", "FP32", "INT32", "INT64", "BOOL", "BYTES", "BYTES", "BYTES")
    ]
    assert [spec.name for spec in specs if spec.optional] == ["long"]


def test_columns_without_names_are_numbered() -> None:
    assert [spec.name for spec in column_specs([Column("", "long")] * 2, "input")] == [
        "input-0",
        "input-1",
    ]


def test_columns_that_are_no_scalars_are_named() -> None:
    with pytest.raises(MLmodelError, match="input column 'a' has type array"):
        column_specs([Column("a", "array")], "input")


def test_specs_without_names_are_numbered() -> None:
    specs = [
        TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in ("", "probabilities", "")
    ]
    assert [spec.name for spec in named(specs, "output")] == [
        "output-0",
        "probabilities",
        "output-2",
    ]


def test_parameters_that_requests_can_carry(tmp_path: Path) -> None:
    params = [
        {"name": "scale", "type": "double", "default": 1.5, "shape": None},
        {"name": "stops", "type": "string", "default": ["a"], "shape": [-1]},
    ]
    mlmodel = read_mlmodel(write(tmp_path, inputs=[{"type": "long"}], params=params))
    assert mlmodel is not None
    assert mlmodel.parameters == (ParameterSpec(name="scale", datatype="FP64"),)


@pytest.mark.parametrize(
    "text", ["[", "7", "signature: {inputs: '{'}", "signature: {params: '[{}]'}"]
)
def test_what_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(MLmodelError, match="cannot be read"):
        read_mlmodel(tmp_path)

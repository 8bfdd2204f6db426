"""Writes a network as MLflow logs an exported program, without MLflow."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from load_tests.server import Inputs, Rows

EXAMPLE_ROWS = 2
"""An example of one row would fix the batch at one."""


def write_version(folder: Path, module: nn.Module, inputs: Inputs, outputs: Rows) -> Path:
    """Export a network on the CPU, with any number of rows; returns the `MLmodel` file.

    Args:
        inputs, outputs: a row of each, for their shapes and types.
    """
    data = folder / "data" / "model.pt2"
    data.parent.mkdir(parents=True)
    example = torch.from_numpy(inputs).expand(EXAMPLE_ROWS, *inputs.shape[1:]).contiguous()
    with torch.no_grad():
        program = torch.export.export(
            module, (example,), dynamic_shapes={"x": {0: torch.export.Dim("n")}}
        )
    torch.export.save(program, data)
    path = folder / "MLmodel"
    path.write_text(json.dumps(mlmodel(inputs, outputs)))  # JSON is YAML
    return path


def mlmodel(inputs: Inputs, outputs: Rows) -> dict[str, object]:
    """Says that the model takes `x` and gives `y`; the graph itself names no outputs."""
    return {
        "flavors": {"pytorch": {"model_data": "data"}},
        "signature": {"inputs": _side("x", inputs), "outputs": _side("y", outputs)},
    }


def _side(name: str, array: Inputs) -> str:
    spec = {"dtype": array.dtype.name, "shape": [-1, *array.shape[1:]]}
    return json.dumps([{"name": name, "type": "tensor", "tensor-spec": spec}])

"""Small real ONNX models, as MLflow would lay them out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 10


def save_graph(
    folder: Path, nodes: list[Any], inputs: Any, outputs: Any, weights: Any = ()
) -> None:
    """Write a graph as `folder/model.onnx`."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "model.onnx"))


def value(name: str, elem: int, shape: list[int | str]) -> Any:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, elem, shape)


def affine(folder: Path, scale: float, *, rows: int | str = "n", width: int = 2) -> Path:
    """y = scale * x; x is FP32[-1, width]."""
    weights = [numpy_helper.from_array(np.array(scale, np.float32), "scale")]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["y"])]
    x, y = (value(name, TensorProto.FLOAT, [rows, width]) for name in "xy")
    save_graph(folder, nodes, [x], [y], weights)
    return folder


def picky(folder: Path) -> Path:
    """y = table[x]; x is INT64[-1], and only 0 to 9 are in the table: others make it fail."""
    weights = [numpy_helper.from_array(np.arange(10, dtype=np.float32) * 10, "table")]
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    inputs = [value("x", TensorProto.INT64, ["n"])]
    outputs = [value("y", TensorProto.FLOAT, ["n"])]
    save_graph(folder, nodes, inputs, outputs, weights)
    return folder


def enduring(folder: Path, size: int = 128) -> Path:
    """y = x, after as many rounds as the largest x says; 10,000 take about a second."""
    carry = [value(name, TensorProto.FLOAT, [size, size]) for name in ("before", "after")]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["before", "before"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["still"]),
        ],
        "round",
        [value("round", TensorProto.INT64, []), value("go_on", TensorProto.BOOL, []), carry[0]],
        [value("still", TensorProto.BOOL, []), carry[1]],
    )
    weights = [
        numpy_helper.from_array(np.eye(size, dtype=np.float32), "eye"),
        numpy_helper.from_array(np.array(True), "yes"),
    ]
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["rounds"], to=TensorProto.INT64),
        helper.make_node("Loop", ["rounds", "yes", "eye"], ["result"], body=body),
        helper.make_node("ReduceMax", ["result"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    x, y = (value(name, TensorProto.FLOAT, ["n", 2]) for name in "xy")
    save_graph(folder, nodes, [x], [y], weights)
    return folder


def slow(folder: Path, width: int = 1400, layers: int = 12) -> Path:
    """y = x times a large matrix, again and again: tens of milliseconds on one thread."""
    matrix = np.eye(width, dtype=np.float32)
    weights = [numpy_helper.from_array(matrix, "w")]
    names = ["x", *[f"h{layer}" for layer in range(layers - 1)], "y"]
    nodes = [
        helper.make_node("MatMul", [before, "w"], [after])
        for before, after in itertools.pairwise(names)
    ]
    x, y = (value(name, TensorProto.FLOAT, ["n", width]) for name in "xy")
    save_graph(folder, nodes, [x], [y], weights)
    return folder

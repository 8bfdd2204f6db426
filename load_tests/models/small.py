"""The models of the scenarios, made on the spot with random weights from a fixed seed.

`tiny` is all server, `mlp` is a small network with a body of some kilobytes, and `medium` is bound
by the replica: its weights dominate a batch of one, so that batching pays.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from load_tests.server import Model, Rows

OPSET = 17
IR_VERSION = 10
SEED = 7

LAYERS: dict[str, tuple[int, ...]] = {
    "tiny": (4, 3),
    "mlp": (784, 512, 512, 10),
    "medium": (1024, 2048, 3072, 2048, 1024),
}
"""Sizes of the layers; linear ones with ReLU between. `tiny` ends with a softmax."""

IMAGE = "image"
IMAGE_SHAPE = (3, 224, 224)


def make_model(folder: Path, name: str, version: int = 1) -> Model:
    """Write a model as `folder/NAME/VERSION/model.onnx`, which Penstock takes as it is."""
    sizes = LAYERS[name]
    rng = np.random.default_rng([SEED, version])
    nodes, weights, before = [], [], "x"
    for layer, (rows, columns) in enumerate(pairwise(sizes)):
        last = layer == len(sizes) - 2
        matrix = rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
        bias = rng.normal(0, 0.1, columns).astype(np.float32)
        weights += [numpy_helper.from_array(matrix, f"w{layer}")]
        weights += [numpy_helper.from_array(bias, f"b{layer}")]
        linear = "y" if last and name != "tiny" else f"linear{layer}"
        nodes.append(helper.make_node("Gemm", [before, f"w{layer}", f"b{layer}"], [linear]))
        before = linear
        if last and name == "tiny":
            nodes.append(helper.make_node("Softmax", [before], ["y"], axis=1))
        elif not last:
            before = f"relu{layer}"
            nodes.append(helper.make_node("Relu", [linear], [before]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", sizes[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", sizes[-1]])
    graph = helper.make_graph(nodes, name, [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path = folder / name / str(version) / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return Model(name, path, sizes[0], sizes[-1])


def make_image_model(folder: Path) -> Model:
    """A model that looks at an image for next to nothing, so that moving it is what costs."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *IMAGE_SHAPE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", IMAGE_SHAPE[0]])
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], IMAGE, [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path = folder / IMAGE / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return Model(IMAGE, path, prod(IMAGE_SHAPE), IMAGE_SHAPE[0])


def sample_rows(model: Model, count: int) -> list[Rows]:
    """Inputs of one row each, of numbers with all the digits that FP32 has."""
    rng = np.random.default_rng(SEED)
    return [rng.random((1, model.width), dtype=np.float32) for _ in range(count)]


def row_shape(model: Model) -> tuple[int, ...]:
    """The shape of one row as the model takes it."""
    return IMAGE_SHAPE if model.name == IMAGE else (model.width,)

"""Classifiers of the demo as ONNX graphs, written out by hand.

    image [N, 64] -> Mul 1/16 -> (Gemm -> Relu)* -> Gemm -> Softmax -> probabilities [N, 10]
                                                                    -> ArgMax -> label [N]

Logistic regression is the same graph without hidden layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""Of 2022: read by every ONNX Runtime since 1.12."""

PIXEL_MAX = 16.0

Layer = tuple[NDArray[Any], NDArray[Any]]
"""Weights [inputs, outputs] and biases [outputs]."""


def classifier(layers: Sequence[Layer], name: str) -> Any:
    """The graph of a dense network: Relu between layers, Softmax at the end.

    Args:
        layers: from the image to the ten classes.
        name: the graph's name.
    """
    nodes = [helper.make_node("Mul", ["image", "scale"], ["layer_0"])]
    constants = [numpy_helper.from_array(np.float32(1.0 / PIXEL_MAX), "scale")]
    current = "layer_0"
    for index, (weights, biases) in enumerate(layers, start=1):
        weight, bias, dense = f"weight_{index}", f"bias_{index}", f"dense_{index}"
        constants.append(numpy_helper.from_array(weights.astype(np.float32), weight))
        constants.append(numpy_helper.from_array(biases.astype(np.float32), bias))
        nodes.append(helper.make_node("Gemm", [current, weight, bias], [dense]))
        current = dense
        if index < len(layers):
            current = f"layer_{index}"
            nodes.append(helper.make_node("Relu", [dense], [current]))
    nodes.append(helper.make_node("Softmax", [current], ["probabilities"], axis=-1))
    nodes.append(helper.make_node("ArgMax", [current], ["label"], axis=-1, keepdims=0))
    model = helper.make_model(
        helper.make_graph(nodes, name, [_value("image", 64)], _outputs(), constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="penstock",
    )
    checker.check_model(model, full_check=True)
    return model


def _value(name: str, size: int) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])


def _outputs() -> list[Any]:
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
    return [label, _value("probabilities", 10)]

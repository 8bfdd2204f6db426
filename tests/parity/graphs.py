"""ONNX and PyTorch, which run without MLflow's code and answer as it does."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import pandas as pd
import torch
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, Schema, TensorSpec
from onnx import TensorProto, helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from tests.parity.bodies import Body, document, of_array, of_frame
from tests.parity.cases import Case

X = np.array([[1.0, 2.0, 3.0, 4.0], [0.5, 0.0, 0.0, 0.25], [-1.0, 1e3, 7.0, 0.1]], np.float32)
IRIS = load_iris(as_frame=True)


def graph(
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
) -> Any:
    made = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in outputs.items()
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def onnx_saved(model: Any, signature: Any) -> Callable[[Path], None]:
    return lambda folder: mlflow.onnx.save_model(
        model, str(folder), signature=signature, pip_requirements=[]
    )


def two_outputs() -> Any:
    nodes = [
        helper.make_node("Neg", ["x"], ["negative"]),
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0, axes=[1]),
    ]
    return graph(
        nodes,
        {"x": (TensorProto.FLOAT, ["n", 4])},
        {"negative": (TensorProto.FLOAT, ["n", 4]), "top": (TensorProto.FLOAT, ["n"])},
    )


def two_inputs() -> Any:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    return graph(
        nodes,
        {"a": (TensorProto.FLOAT, ["n", 1]), "b": (TensorProto.FLOAT, ["n", 1])},
        {"sum": (TensorProto.FLOAT, ["n", 1])},
    )


def flat_inputs() -> Any:
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"])]
    return graph(
        nodes,
        {"a": (TensorProto.FLOAT, ["n"]), "b": (TensorProto.FLOAT, ["n"])},
        {"sum": (TensorProto.FLOAT, ["n"])},
    )


def texts() -> Any:
    nodes = [helper.make_node("Identity", ["s"], ["same"])]
    return graph(nodes, {"s": (TensorProto.STRING, ["n"])}, {"same": (TensorProto.STRING, ["n"])})


def integers() -> Any:
    nodes = [helper.make_node("Abs", ["i"], ["size"])]
    return graph(
        nodes, {"i": (TensorProto.INT64, ["n", 2])}, {"size": (TensorProto.INT64, ["n", 2])}
    )


def converted(*, zipmap: bool) -> Callable[[Path], None]:
    """scikit-learn's classifier as skl2onnx converts it."""

    def make(folder: Path) -> None:
        to_onnx = import_module("skl2onnx").to_onnx
        frame = IRIS.data.astype(np.float32)
        model = LogisticRegression(max_iter=500).fit(frame.to_numpy(), IRIS.target)
        options = {} if zipmap else {id(model): {"zipmap": False}}
        made = to_onnx(model, frame.to_numpy()[:1], options=options, target_opset=17)
        onnx_saved(made, infer_signature(frame.to_numpy()))(folder)

    return make


def tensors(**given: tuple[str, tuple[int, ...]]) -> Schema:
    return Schema(
        [TensorSpec(np.dtype(kind), shape, name) for name, (kind, shape) in given.items()]
    )


ONE = ModelSignature(tensors(x=("float32", (-1, 4))))


def of_x() -> list[Body]:
    rows = X.tolist()
    return [
        *of_array(X),
        document("inputs by name", {"inputs": {"x": rows}}),
        document("instances by name", {"instances": [{"x": row} for row in rows]}),
        document("a table", {"dataframe_split": {"columns": list("abcd"), "data": rows}}),
        document("integers", {"inputs": [[1, 2, 3, 4]]}),
        document("too few", {"inputs": [[1.0, 2.0]]}),
        document("texts", {"inputs": [["a", "b", "c", "d"]]}),
        document("ragged", {"inputs": [[1.0, 2.0, 3.0, 4.0], [1.0]]}),
        document("another name", {"inputs": {"y": rows}}),
    ]


COLUMNS = ModelSignature(Schema([ColSpec("float", "a"), ColSpec("float", "b")]))
TABLE = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": [0.5, -1.0, 0.0]}, dtype=np.float32)

ONNX = [
    Case("onnx-two-outputs", onnx_saved(two_outputs(), ONE), of_x, quick=True),
    Case("onnx-unsigned", onnx_saved(two_outputs(), None), of_x),
    Case(
        "onnx-two-inputs",
        onnx_saved(
            two_inputs(), ModelSignature(tensors(a=("float32", (-1, 1)), b=("float32", (-1, 1))))
        ),
        lambda: [
            document("inputs", {"inputs": {"a": [[1.0], [2.0]], "b": [[0.5], [1.5]]}}),
            document("instances", {"instances": [{"a": [1.0], "b": [2.0]}]}),
            document("a missing one", {"inputs": {"a": [[1.0]]}}),
            document("rows that differ", {"inputs": {"a": [[1.0]], "b": [[1.0], [2.0]]}}),
        ],
    ),
    Case("onnx-columns", onnx_saved(flat_inputs(), COLUMNS), lambda: of_frame(TABLE), quick=True),
    Case(
        "onnx-texts",
        onnx_saved(texts(), ModelSignature(tensors(s=("str", (-1,))))),
        lambda: [
            document("inputs", {"inputs": {"s": ["a", "ü", ""]}}),
            document("bare", {"inputs": ["a"]}),
            document("numbers", {"inputs": {"s": [1]}}),
        ],
    ),
    Case(
        "onnx-integers",
        onnx_saved(integers(), ModelSignature(tensors(i=("int64", (-1, 2))))),
        lambda: [
            *of_array(np.array([[1, -2], [3, 4]])),
            document("floats", {"inputs": [[1.5, 2.0]]}),
            document("whole floats", {"inputs": [[1.0, 2.0]]}),
        ],
    ),
    Case(
        "onnx-zipmap",
        converted(zipmap=True),
        lambda: of_array(IRIS.data.to_numpy()),
        needs=("skl2onnx",),
    ),
    Case(
        "onnx-sklearn",
        converted(zipmap=False),
        lambda: of_array(IRIS.data.to_numpy()),
        needs=("skl2onnx",),
    ),
]


def network(out: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, out)
    ).eval()


def torch_saved(module: Any, signature: Any, **options: Any) -> Callable[[Path], None]:
    return lambda folder: mlflow.pytorch.save_model(
        module, str(folder), signature=signature, pip_requirements=[], **options
    )


NAMELESS = ModelSignature(
    Schema([TensorSpec(np.dtype("float32"), (-1, 4))]),
    Schema([TensorSpec(np.dtype("float32"), (-1, 2))]),
)
FRAME = pd.DataFrame(X, columns=list("abcd"))


def of_nameless() -> list[Body]:
    return [body for body in of_x() if "by name" not in body.form and body.form != "another name"]


TORCH = [
    Case(
        "torch-pickled",
        torch_saved(network(), NAMELESS, serialization_format="pickle"),
        of_nameless,
        quick=True,
    ),
    Case("torch-exported", torch_saved(network(), NAMELESS, input_example=X), of_nameless),
    Case(
        "torch-scripted",
        torch_saved(torch.jit.script(network()), NAMELESS, serialization_format="pickle"),
        of_nameless,
    ),
    Case(
        "torch-columns",
        torch_saved(network(), infer_signature(FRAME, X[:, :2]), serialization_format="pickle"),
        lambda: of_frame(FRAME),
    ),
    Case(
        "torch-unsigned", torch_saved(network(1), None, serialization_format="pickle"), of_nameless
    ),
]


FILES = np.random.default_rng(0).integers(0, 256, (3, 2048)).astype(np.int32)


def magika(folder: Path) -> None:
    """A real classifier of files' content, with its own weights."""
    package = import_module("magika")
    (path,) = Path(str(package.__file__)).parent.glob("models/*/model.onnx")
    model = onnx.load(str(path))
    onnx_saved(model, infer_signature({model.graph.input[0].name: FILES}))(folder)


def of_magika() -> list[Body]:
    return of_array(FILES, (1, 3))


REAL = [Case("onnx-magika", magika, of_magika, needs=("magika",))]

CASES = [*ONNX, *TORCH, *REAL]

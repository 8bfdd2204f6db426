"""Outputs as MLflow's scoring server and KServe v1 give them; pure and synchronous.

MLflow writes what the model's `predict` returned: nested lists for an array, an object of them for
a dictionary, a list of objects for a data frame. A gateway knows names and shapes of the outputs,
and the runtime, and infers from these which of the three it was. Numbers that are not finite are
`null`: MLflow writes NaN, which is no JSON.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.calls import InferenceAnswer
from gateway.http.json_tensors import values_of
from shared.tensors import Tensor

UNNAMED_OUTPUT = "output-0"
"""Name of the one output of a model whose signature names none."""


def mlflow_predictions(answer: InferenceAnswer, platform: str) -> bytes:
    """`{"predictions": ...}` as MLflow's server would have it.

    Args:
        platform: the runtime; ONNX models return dictionaries, PyTorch models arrays.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
    """
    outputs = answer.outputs
    if platform.startswith("onnx"):
        return _predictions(_by_name(outputs))
    bare = len(outputs) == 1 and (
        outputs[0].name == UNNAMED_OUTPUT or platform.startswith("pytorch")
    )
    if bare:
        return _predictions(values_of(outputs[0], outputs[0].shape))
    if all(len(output.shape) == 1 for output in outputs) and _rows_agree(outputs):
        return _predictions(_records(outputs))
    return _predictions(_by_name(outputs))


def kserve_predictions(answer: InferenceAnswer) -> bytes:
    """`{"predictions": ...}` with an entry per instance: bare values, or objects of several.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
    """
    outputs = answer.outputs
    if len(outputs) == 1:
        return _predictions(values_of(outputs[0], outputs[0].shape))
    return _predictions(_records(outputs) if _rows_agree(outputs) else _by_name(outputs))


def _predictions(predictions: Any) -> bytes:
    return orjson.dumps({"predictions": predictions}, option=orjson.OPT_SERIALIZE_NUMPY)


def _by_name(outputs: tuple[Tensor, ...]) -> dict[str, Any]:
    return {output.name: values_of(output, output.shape) for output in outputs}


def _rows_agree(outputs: tuple[Tensor, ...]) -> bool:
    return all(output.shape and output.rows == outputs[0].rows for output in outputs)


def _records(outputs: tuple[Tensor, ...]) -> list[dict[str, Any]]:
    names = [output.name for output in outputs]
    columns = [values_of(output, output.shape) for output in outputs]
    lists = [column if type(column) is list else column.tolist() for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]

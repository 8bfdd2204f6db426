"""Outputs as MLflow's scoring server and KServe v1 give them; pure and synchronous.

MLflow writes what the model's `predict` returned: nested lists for an array, an object of them for
a dictionary, a list of objects for a data frame. A gateway knows names and shapes of the outputs,
and the runtime, and infers from these which of the three it was. Numbers that are not finite are
`null`: MLflow writes NaN, which is no JSON.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from penstock.gateway.http.tensors.slices import record_slices, tensor_slices
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.wire.tensors import Tensor

UNNAMED_OUTPUT = "output-0"
"""Name of the one output of a model whose signature names none."""

_FRONT = b'{"predictions":'


def mlflow_predictions(answer: InferenceAnswer, platform: str) -> tuple[bytes, ...]:
    """`{"predictions": ...}` as MLflow's server would have it, in parts.

    Args:
        answer: of the model.
        platform: the runtime; ONNX models return dictionaries, PyTorch models arrays.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
    """
    outputs = answer.outputs
    if platform.startswith("onnx"):
        return _by_name(outputs)
    bare = len(outputs) == 1 and (
        outputs[0].name == UNNAMED_OUTPUT or platform.startswith("pytorch")
    )
    if bare:
        return _bare(outputs[0])
    if all(len(output.shape) == 1 for output in outputs) and _rows_agree(outputs):
        return _records(outputs)
    return _by_name(outputs)


def kserve_predictions(answer: InferenceAnswer) -> tuple[bytes, ...]:
    """`{"predictions": ...}` with an entry per instance: bare values, or objects of several.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
    """
    outputs = answer.outputs
    if len(outputs) == 1:
        return _bare(outputs[0])
    return _records(outputs) if _rows_agree(outputs) else _by_name(outputs)


def _rows_agree(outputs: tuple[Tensor, ...]) -> bool:
    return all(output.shape and output.rows == outputs[0].rows for output in outputs)


def _bare(output: Tensor) -> tuple[bytes, ...]:
    return _predictions(tensor_slices(output, output.shape))


def _records(outputs: tuple[Tensor, ...]) -> tuple[bytes, ...]:
    return _predictions(record_slices(outputs))


def _by_name(outputs: tuple[Tensor, ...]) -> tuple[bytes, ...]:
    return _predictions(_members(outputs))


def _members(outputs: tuple[Tensor, ...]) -> Iterator[bytes]:
    front = b"{"
    for output in outputs:
        yield front + orjson.dumps(output.name) + b":"
        yield from tensor_slices(output, output.shape)
        front = b","
    yield b"}" if outputs else b"{}"


def _predictions(slices: Iterator[bytes]) -> tuple[bytes, ...]:
    return (_FRONT, *slices, b"}")

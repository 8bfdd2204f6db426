"""Outputs as MLflow's scoring server and KServe v1 give them; pure and synchronous.

MLflow writes what the model's `predict` returned: nested lists for an array, an object of them for
a dictionary, a list of objects for a data frame. A replica tells which of the three it was; of a
graph, the runtime does. What a replica answered in MLflow's words itself is passed on. Numbers that
are not finite are `null`: MLflow writes NaN, which is no JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from http import HTTPStatus

import numpy as np
import orjson

from penstock.gateway.http.tensors.slices import record_slices, tensor_slices
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import Returns
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import Buffer, Tensor, array_from_tensor, tensor_from_array

UNNAMED_OUTPUT = "output-0"
"""Name of the one output of a model whose signature names none."""

_FRONT = b'{"predictions":'


class MlflowRefusalError(PenstockError):
    """MLflow's own code in a replica refused a body.

    Attributes:
        mlflow_code: its code for that.
    """

    def __init__(self, mlflow_code: str, message: str) -> None:
        super().__init__(ErrorCode.INVALID_INPUT, message)
        self.mlflow_code = mlflow_code


def scored(answer: Tensor) -> Buffer:
    """The body that a replica made of a body in MLflow's words.

    Raises:
        MlflowRefusalError: it was refused.
    """
    if answer.shape[-1] < HTTPStatus.BAD_REQUEST:
        return answer.data
    document = orjson.loads(answer.data)
    raise MlflowRefusalError(document["error_code"], document["message"])


def mlflow_predictions(
    answer: InferenceAnswer, platform: str, returns: Returns = "", keys: Sequence[str] = ()
) -> tuple[bytes, ...]:
    """`{"predictions": ...}` as MLflow's server would have it, in parts.

    Args:
        answer: of the model.
        platform: the runtime; ONNX models return dictionaries, PyTorch models arrays.
        returns, keys: the form of what the model returns, where that is known.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
    """
    outputs = _in_order_of(keys, answer.outputs)
    if keys:
        outputs = tuple(
            [
                Tensor(key, each.datatype, each.shape, each.data)
                for key, each in zip(keys, outputs, strict=True)
            ]
        )
    if returns == "records":
        return _records(outputs)
    if returns == "object" or platform.startswith("onnx"):
        return _by_name(outputs)
    if len(outputs) == 1:
        return _bare(outputs[0])
    if returns == "array":
        return _rows(outputs)
    if all(len(output.shape) == 1 for output in outputs) and _rows_agree(outputs):
        return _records(outputs)
    return _by_name(outputs)


def _in_order_of(keys: Sequence[str], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """By name, where they have the members' names."""
    by_name = {output.name: output for output in outputs}
    return tuple([by_name[key] for key in keys]) if set(keys) == by_name.keys() else outputs


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


def _rows(outputs: tuple[Tensor, ...]) -> tuple[bytes, ...]:
    """The columns of one array, of which a signature names each."""
    arrays = [array_from_tensor(each) for each in outputs]
    whole = tensor_from_array(UNNAMED_OUTPUT, np.stack(arrays, axis=1))
    return _bare(whole)


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

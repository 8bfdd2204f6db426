"""Requests into one batch, and its outputs back to each: pure array work.

Rows of request i are rows `offset[i] : offset[i] + rows[i]` of every input and of every output. A
model with a static batch size is padded with copies of the last row, which are cut off again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shared.deployment import ModelInterface
from shared.messages import Request
from shared.tensors import AnyArray, Tensor, array_from_tensor, tensor_from_array


class OutputShapeError(ValueError):
    """The model's outputs cannot be divided among the requests of their batch."""


def merge(requests: Sequence[Request], static_rows: int | None = None) -> dict[str, AnyArray]:
    """One array per input, with the rows of all requests in order.

    Args:
        requests: all with the same input names, datatypes and inner shapes.
        static_rows: the number of rows to pad to, or None.
    """
    merged: dict[str, AnyArray] = {}
    for position, tensor in enumerate(requests[0].inputs):
        parts = [array_from_tensor(request.inputs[position]) for request in requests]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if static_rows is not None and 0 < array.shape[0] < static_rows:
            padding = np.repeat(array[-1:], static_rows - array.shape[0], axis=0)
            array = np.concatenate([array, padding])
        merged[tensor.name] = array
    return merged


def split(
    outputs: Sequence[AnyArray],
    requests: Sequence[Request],
    interface: ModelInterface,
) -> tuple[tuple[Tensor, ...], ...]:
    """Each request's share of the outputs: those it asked for, in its order.

    Raises:
        OutputShapeError: if a batch's output has fewer rows than its requests.
    """
    arrays = dict(zip([spec.name for spec in interface.outputs], outputs, strict=True))
    if interface.max_batch_size == 0:
        return tuple(_select(arrays, request) for request in requests)
    rows = [request.inputs[0].rows for request in requests]
    for name, array in arrays.items():
        if array.ndim == 0 or array.shape[0] < sum(rows):
            raise OutputShapeError(
                f"output {name!r} has shape {list(array.shape)} for a batch of {sum(rows)} rows"
            )
    shares = []
    offset = 0
    for request, count in zip(requests, rows, strict=True):
        part = {name: array[offset : offset + count] for name, array in arrays.items()}
        shares.append(_select(part, request))
        offset += count
    return tuple(shares)


def _select(arrays: Mapping[str, AnyArray], request: Request) -> tuple[Tensor, ...]:
    names = request.outputs or tuple(arrays)
    return tuple(tensor_from_array(name, np.asarray(arrays[name])) for name in names)

"""Requests into one batch, and its outputs back to each: pure array work.

Rows of request i are rows `offset[i] : offset[i] + rows[i]` of every input and of every output. A
model with a static batch size is padded with copies of the last row, which are cut off again. An
output with any other number of rows than were executed cannot be divided, and nothing of it is ever
cut off.

Numbers are taken as the bytes they are, a whole batch at once: an array for each request costs
more than all the rest of a small request (for 32 requests of 4 numbers: 150 µs instead of 19).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.codec import INLINE_BYTES_MAX
from penstock.shared.wire.messages import Request
from penstock.shared.wire.tensors import (
    DATATYPE_OF,
    NUMPY_OF,
    AnyArray,
    Buffer,
    Tensor,
    array_from_tensor,
    tensor_from_array,
)


class OutputShapeError(ValueError):
    """The model's outputs cannot be divided among the requests of their batch."""


def merge(requests: Sequence[Request], static_rows: int | None = None) -> dict[str, AnyArray]:
    """One array per input, with the rows of all requests in order.

    A request that is alone is not copied.

    Args:
        requests: all with the same input names, datatypes and inner shapes.
        static_rows: the number of rows to pad to, or None.
    """
    if len(requests) > 1 and len(requests[0].inputs) > 1:
        _check_aligned(requests)
    merged: dict[str, AnyArray] = {}
    for position, tensor in enumerate(requests[0].inputs):
        if len(requests) == 1:
            array = array_from_tensor(tensor)
        else:
            array = _joined([request.inputs[position] for request in requests])
        if static_rows is not None and 0 < array.shape[0] < static_rows:
            padding = np.repeat(array[-1:], static_rows - array.shape[0], axis=0)
            array = np.concatenate([array, padding])
        merged[tensor.name] = array
    return merged


def split(
    outputs: Sequence[AnyArray] | Mapping[str, AnyArray],
    requests: Sequence[Request],
    interface: ModelInterface,
    static_rows: int | None = None,
) -> list[tuple[Tensor, ...]]:
    """Each request's share of the outputs: those it asked for, in its order.

    Args:
        static_rows: the number of rows that `merge` padded to, or None.

    Raises:
        OutputShapeError: if an output has other rows than were executed.
    """
    if interface.max_batch_size == 0:
        return [whole(outputs, request, interface) for request in requests]
    assert not isinstance(outputs, Mapping)  # which is of what is not batched
    names = [spec.name for spec in interface.outputs]
    arrays = [np.asarray(output) for output in outputs]
    rows = [request.inputs[0].rows for request in requests]
    total = sum(rows)
    executed = static_rows if static_rows is not None and total > 0 else total
    columns = [_cut(name, array, rows, executed) for name, array in zip(names, arrays, strict=True)]
    shares = list(zip(*columns, strict=True)) if columns else [()] * len(requests)
    return [
        _asked_for(request, share) if request.outputs else share
        for request, share in zip(requests, shares, strict=True)
    ]


def whole(
    outputs: Sequence[AnyArray] | Mapping[str, AnyArray],
    request: Request,
    interface: ModelInterface,
) -> tuple[Tensor, ...]:
    """All of the outputs that a request asked for, as they are."""
    if isinstance(outputs, Mapping):
        by_name = list(outputs.items())
    else:
        names = [spec.name for spec in interface.outputs]
        by_name = list(zip(names, outputs, strict=True))
    tensors = [tensor_from_array(name, np.asarray(output)) for name, output in by_name]
    return _asked_for(request, tuple(tensors))


def copied_bytes(
    requests: Sequence[Request],
    inputs: Mapping[str, AnyArray],
    shares: Sequence[tuple[Tensor, ...]],
) -> int:
    """What `merge` and `split` copied: what is alone goes in as it is, large shares come out so."""
    copied = 0
    if len(requests) > 1:
        for array in inputs.values():
            copied += array.nbytes
    for share in shares:
        for tensor in share:
            if type(tensor.data) is bytes:
                copied += len(tensor.data)
    return copied


def _check_aligned(requests: Sequence[Request]) -> None:
    """See that all inputs of a request have as many rows: else they would shift those behind.

    Gateways do, unless they know of a replica that is not batched; the batch is then bisected.

    Raises:
        ValueError: if not.
    """
    for request in requests:
        rows = request.inputs[0].rows
        for tensor in request.inputs:
            if tensor.rows != rows:
                raise ValueError(f"input {tensor.name!r} has {tensor.rows} rows, not {rows}")


def _joined(tensors: Sequence[Tensor]) -> AnyArray:
    """The rows of all in one array."""
    first = tensors[0]
    if first.datatype == "BYTES":
        return np.concatenate([array_from_tensor(tensor) for tensor in tensors])
    data = b"".join([tensor.data for tensor in tensors])
    rows = sum([tensor.shape[0] for tensor in tensors])
    dtype = NUMPY_OF[first.datatype].newbyteorder("<")
    return np.frombuffer(data, dtype).reshape((rows, *first.shape[1:]))


def _cut(name: str, array: AnyArray, rows: Sequence[int], executed: int) -> list[Tensor]:
    """So many rows of an output for each request; what was executed beyond them is padding."""
    total = sum(rows)
    if array.ndim == 0 or array.shape[0] != executed:
        raise OutputShapeError(
            f"output {name!r} has shape {list(array.shape)} for a batch of {executed} rows"
        )
    datatype = DATATYPE_OF.get(array.dtype)
    if datatype is None or datatype == "BYTES":
        offsets = pairwise(accumulate(rows, initial=0))
        return [tensor_from_array(name, array[start:end]) for start, end in offsets]
    inner = array.shape[1:]
    width = math.prod(inner) * array.itemsize
    data = _raw(array, max(rows) * width)
    if width > 0 and rows.count(1) == total == len(rows):
        shape = (1, *inner)
        ends = range(width, total * width + 1, width)
        return [Tensor(name, datatype, shape, data[end - width : end]) for end in ends]
    offsets = pairwise(accumulate([count * width for count in rows], initial=0))
    return [
        Tensor(name, datatype, (count, *inner), data[start:end])
        for count, (start, end) in zip(rows, offsets, strict=True)
    ]


def _raw(array: AnyArray, largest: int) -> Buffer:
    """An array's bytes in row-major order, to be cut into shares of at most `largest` bytes.

    Shares that will travel inside a header are copied there anyway; to cut bytes is cheaper than to
    cut views, and they do not keep the whole batch in memory. Large ones are not copied.
    """
    if largest <= INLINE_BYTES_MAX or array.size == 0:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _asked_for(request: Request, share: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if not request.outputs:
        return share
    by_name = {tensor.name: tensor for tensor in share}
    return tuple([by_name[name] for name in request.outputs])

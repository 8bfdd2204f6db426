"""Large answers in JSON, written a slice at a time: to the same bytes as in one go.

A writer holds the interpreter while it writes. Between slices it can let go, so that the loop,
which waits for it in another thread, has its turn. So this is not compiled: C code does not let go.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import orjson

from penstock.gateway.http.tensors.json_tensors import nested, not_text, values_of
from penstock.shared.wire.tensors import (
    LENGTH_BYTES,
    AnyArray,
    Buffer,
    ElementsError,
    Tensor,
    element_ends,
)

SLICE_ELEMENTS = 32 * 1024
"""Numbers that are written at a time: some 2 ms."""

SLICE_BYTES = 256 * 1024
"""Text that is written at a time: a fraction of a millisecond."""


def tensor_slices(tensor: Tensor, shape: Sequence[int]) -> Iterator[bytes]:
    """A tensor's elements as lists in a shape; numbers that are not finite are `null`.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
        ValueError: if the tensor's data does not fit its datatype and shape.
    """
    if not shape or not math.prod(shape):
        yield orjson.dumps(values_of(tensor, tuple(shape)), option=orjson.OPT_SERIALIZE_NUMPY)
    elif tensor.datatype == "BYTES":
        elements = _elements(tensor)
        yield from _text_slices(tensor, elements, shape)
        _check_end(tensor, elements)
    else:
        yield from _number_slices(values_of(tensor, tuple(shape)))


def record_slices(tensors: Sequence[Tensor]) -> Iterator[bytes]:
    """A list of objects, one for each row, of what each tensor has in it.

    Raises:
        PenstockError, ValueError: as `tensor_slices`.
    """
    names = [tensor.name for tensor in tensors]
    rows = tensors[0].rows
    elements = sum([math.prod(tensor.shape) for tensor in tensors])
    size_bytes = sum([tensor.nbytes for tensor in tensors])
    slices = max(elements // SLICE_ELEMENTS, size_bytes // SLICE_BYTES) + 1
    step = max(1, rows // slices)
    columns = [_Column(tensor) for tensor in tensors]
    front = b"["
    for start in range(0, rows, step):
        count = min(step, rows - start)
        lists = [column.next_rows(count) for column in columns]
        records = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
        yield front + orjson.dumps(records)[1:-1]
        front = b","
    for column in columns:
        column.finish()
    yield b"]" if rows else b"[]"


def _number_slices(array: AnyArray) -> Iterator[bytes]:
    """The JSON of an array that is not empty."""
    row_elements = array.size // len(array)
    front = b"["
    if array.ndim > 1 and row_elements > SLICE_ELEMENTS:
        for row in array:
            yield front
            yield from _number_slices(row)
            front = b","
    else:
        step = max(1, SLICE_ELEMENTS // row_elements)
        for start in range(0, len(array), step):
            part = np.ascontiguousarray(array[start : start + step])
            yield front + orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
            front = b","
    yield b"]"


def _text_slices(
    tensor: Tensor, elements: Iterator[memoryview], shape: Sequence[int]
) -> Iterator[bytes]:
    """The JSON of the next elements of BYTES, as lists in a shape that is not empty.

    Texts are written many at a time: each alone would leave a kilobyte of room behind.
    """
    row_elements = math.prod(shape[1:])
    front = b"["
    if row_elements > SLICE_ELEMENTS:
        for _ in range(shape[0]):
            yield front
            yield from _text_slices(tensor, elements, shape[1:])
            front = b","
        yield b"]"
        return
    rows: list[list[memoryview]] = []
    held_bytes = 0
    for _ in range(shape[0]):
        row = list(itertools.islice(elements, row_elements))
        row_bytes = sum([element.nbytes for element in row])
        if rows and (
            held_bytes + row_bytes > SLICE_BYTES or len(rows) * row_elements > SLICE_ELEMENTS
        ):
            yield front + _rows_of_texts(tensor, rows, shape)
            rows, held_bytes, front = [], 0, b","
        if row_bytes > SLICE_BYTES:
            yield front
            front = b","
            if len(shape) == 1:
                yield from _quoted(tensor, row[0])
            else:
                yield from _text_slices(tensor, iter(row), shape[1:])
        else:
            rows.append(row)
            held_bytes += row_bytes
    yield (front + _rows_of_texts(tensor, rows, shape) if rows else b"") + b"]"


def _rows_of_texts(tensor: Tensor, rows: list[list[memoryview]], shape: Sequence[int]) -> bytes:
    """The JSON of some rows, without brackets around them."""
    texts = [_text(tensor, element) for row in rows for element in row]
    return orjson.dumps(nested(texts, (len(rows), *shape[1:])))[1:-1]


def _quoted(tensor: Tensor, element: memoryview) -> Iterator[bytes]:
    """One text as JSON, a long one in pieces, cut between two characters."""
    if element.nbytes <= SLICE_BYTES:
        yield orjson.dumps(_text(tensor, element))
        return
    yield b'"'
    start = 0
    while start < element.nbytes:
        stop = min(start + SLICE_BYTES, element.nbytes)
        while stop < element.nbytes and stop > start + 1 and element[stop] & 0xC0 == 0x80:
            stop -= 1  # within a character
        yield orjson.dumps(_text(tensor, element[start:stop]))[1:-1]
        start = stop
    yield b'"'


def _text(tensor: Tensor, element: Buffer) -> str:
    try:
        return str(element, "utf-8")
    except UnicodeDecodeError:
        raise not_text(tensor.name) from None


def _elements(tensor: Tensor) -> Iterator[memoryview]:
    """The elements of BYTES, one by one.

    Raises:
        ValueError: if there are more or fewer than the shape says.
    """
    view = memoryview(tensor.data).cast("B")
    start = LENGTH_BYTES
    try:
        for end in element_ends(view, math.prod(tensor.shape)):
            yield view[start:end]
            start = end + LENGTH_BYTES
    except ElementsError as error:
        raise ValueError(f"tensor {tensor.name!r}: {error}") from None


def _check_end(tensor: Tensor, elements: Iterator[memoryview]) -> None:
    for _ in elements:
        raise ValueError(f"tensor {tensor.name!r}: more elements than {tensor.shape}")


class _Column:
    """A tensor of which rows are taken off, as lists."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._texts = _elements(tensor) if tensor.datatype == "BYTES" else None
        self._array: Any = None if self._texts is not None else values_of(tensor, tensor.shape)
        self._taken = 0

    def next_rows(self, count: int) -> list[Any]:
        start, self._taken = self._taken, self._taken + count
        if self._texts is None:
            rows: list[Any] = self._array[start : self._taken].tolist()
            return rows
        inner = self._tensor.shape[1:]
        texts = [
            _text(self._tensor, element)
            for _, element in zip(range(count * math.prod(inner)), self._texts, strict=False)
        ]
        found: list[Any] = nested(texts, (count, *inner))
        return found

    def finish(self) -> None:
        """All rows were taken: look whether there are more texts."""
        if self._texts is not None:
            _check_end(self._tensor, self._texts)

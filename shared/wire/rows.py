"""Tensors cut into pieces of rows, and pieces of rows put together again; pure.

A request of more rows than a model takes at a time is executed in pieces
(`penstock.gateway.inference.large_calls`). Rows keep their order, and nothing is copied that need
not be: pieces of an input are views of it, and pieces of an output are written where they belong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from penstock.shared.wire.tensors import NUMPY_OF, Buffer, Tensor, element_ends


class RowsError(ValueError):
    """Pieces of an output cannot be put together: the message says which one, and why."""


class RowCutter:
    """Cuts tensors that have equally many rows, from the first row on.

    Args:
        tensors: of a request; each has at least one dimension.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._cutters = [_Cutter(tensor) for tensor in tensors]
        self.left = tensors[0].rows

    def next(self, rows: int) -> tuple[Tensor, ...]:
        """The next rows of each tensor, as many as given or as are left.

        Raises:
            ElementsError: the data of a BYTES tensor ends before its elements do.
        """
        rows = min(rows, self.left)
        self.left -= rows
        return tuple([cutter.next(rows) for cutter in self._cutters])


class _Cutter:
    """Cuts one tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._view = memoryview(tensor.data).cast("B")
        self._row_elements = math.prod(tensor.shape[1:])
        self._end = 0
        self._ends = element_ends(self._view, math.prod(tensor.shape))  # of BYTES

    def next(self, rows: int) -> Tensor:
        tensor, start = self._tensor, self._end
        elements = rows * self._row_elements
        if tensor.datatype == "BYTES":
            for end in islice(self._ends, elements):
                self._end = end
        else:
            self._end = start + elements * NUMPY_OF[tensor.datatype].itemsize
        shape = (rows, *tensor.shape[1:])
        return Tensor(tensor.name, tensor.datatype, shape, self._view[start : self._end])


def rows_named(start: int, rows: int, total: int) -> str:
    """Some of a request's rows, as in messages about them."""
    last = start + rows - 1
    named = f"rows {start} to {last}" if rows > 1 else f"row {last}"
    return f"{named} of {total} (from 0)"


class RowJoiner:
    """Puts the outputs of pieces together, in whatever order the pieces come.

    Args:
        rows: of the whole.

    Attributes:
        missing: rows whose outputs are not there yet.
    """

    def __init__(self, rows: int) -> None:
        self.missing = rows
        self._rows = rows
        self._columns: list[_Column] | None = None

    def size_with(self, outputs: Sequence[Tensor]) -> int:
        """What will be held once these are added: of numbers, as much as if all were there.

        Raises:
            RowsError: one of them has no rows.
        """
        columns = self._columns
        if columns is None:
            return sum([_size_of_all(each, self._rows) for each in outputs])
        texts = sum([each.nbytes for each in outputs if each.datatype == "BYTES"])
        return sum([column.size_bytes for column in columns]) + texts

    def add(self, start: int, rows: int, outputs: Sequence[Tensor]) -> None:
        """The outputs of so many rows from row `start` on; each row comes once.

        Raises:
            RowsError: they are not as those of other rows, or not one row for each row.
        """
        if self._columns is None:
            self._columns = [_column(each, self._rows) for each in outputs]
        if len(outputs) != len(self._columns):
            raise RowsError(f"there are {len(outputs)} outputs, and {len(self._columns)} before")
        for column, tensor in zip(self._columns, outputs, strict=True):
            column.check(tensor, rows)
        for column, tensor in zip(self._columns, outputs, strict=True):
            column.add(start, tensor)
        self.missing -= rows

    def outputs(self) -> tuple[Tensor, ...]:
        """The whole, once nothing is missing."""
        return tuple([column.tensor() for column in self._columns or ()])


class _Column:
    """One output."""

    def __init__(self, first: Tensor, rows: int) -> None:
        self._name = first.name
        self._datatype = first.datatype
        self._inner = first.shape[1:]
        self._rows = rows

    @property
    def size_bytes(self) -> int:
        raise NotImplementedError

    def check(self, tensor: Tensor, rows: int) -> None:
        wanted = (self._name, self._datatype, (rows, *self._inner))
        if (tensor.name, tensor.datatype, tensor.shape) != wanted:
            name, datatype, shape = wanted
            raise RowsError(
                f"output {tensor.name!r} is {tensor.datatype}{list(tensor.shape)}, expected "
                f"{name!r} as {datatype}{list(shape)}, as it was for other rows"
            )

    def add(self, start: int, tensor: Tensor) -> None:
        raise NotImplementedError

    def tensor(self) -> Tensor:
        return Tensor(self._name, self._datatype, (self._rows, *self._inner), self._data())

    def _data(self) -> Buffer:
        raise NotImplementedError


class _Numbers(_Column):
    """An output whose rows take equally many bytes, each written where it belongs."""

    def __init__(self, first: Tensor, rows: int) -> None:
        super().__init__(first, rows)
        self._row_bytes = math.prod(self._inner) * NUMPY_OF[first.datatype].itemsize
        self._bytes = bytearray(rows * self._row_bytes)

    @property
    def size_bytes(self) -> int:
        return len(self._bytes)

    def add(self, start: int, tensor: Tensor) -> None:
        begin = start * self._row_bytes
        memoryview(self._bytes)[begin : begin + tensor.nbytes] = memoryview(tensor.data).cast("B")

    def _data(self) -> Buffer:
        return memoryview(self._bytes)


class _Texts(_Column):
    """An output of BYTES: what came out of turn waits for what belongs before it."""

    def __init__(self, first: Tensor, rows: int) -> None:
        super().__init__(first, rows)
        self._bytes = bytearray()
        self._next = 0
        self._early: dict[int, Tensor] = {}
        self._early_bytes = 0

    @property
    def size_bytes(self) -> int:
        return len(self._bytes) + self._early_bytes

    def add(self, start: int, tensor: Tensor) -> None:
        self._early[start] = tensor
        self._early_bytes += tensor.nbytes
        while (ready := self._early.pop(self._next, None)) is not None:
            self._bytes += ready.data
            self._early_bytes -= ready.nbytes
            self._next += ready.shape[0]

    def _data(self) -> Buffer:
        return memoryview(self._bytes)


def _size_of_all(first: Tensor, rows: int) -> int:
    """What numbers take for all rows, and texts for these."""
    _check_rows(first)
    if first.datatype == "BYTES":
        return first.nbytes
    return rows * math.prod(first.shape[1:]) * NUMPY_OF[first.datatype].itemsize


def _check_rows(first: Tensor) -> None:
    if not first.shape:
        raise RowsError(f"output {first.name!r} is one value, and not one for each row")


def _column(first: Tensor, rows: int) -> _Column:
    _check_rows(first)
    if first.datatype == "BYTES":
        return _Texts(first, rows)
    return _Numbers(first, rows)

"""Inputs as MLflow's scoring server and KServe v1 take them, to tensors; pure and synchronous.

Theory: there are three shapes of data. *By name*: an object whose members are whole tensors.
*Bare*: the one tensor of a model with one input. *A table*: rows under columns, as a data frame or
CSV has them. A table's columns are the inputs of their names; where they are not, its rows are the
one input of a model with one, or the columns without names are the inputs in their order. Shapes
are read off the data, then everything is checked as strictly as in the Open Inference Protocol.
Only in tables a number may be missing, which is NaN, as in a data frame. A text may be missing in a
column that is optional, where it is empty.
"""

from __future__ import annotations

import csv
import math
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.gateway.http.tensors.bad_input import bad_input, mismatch, quoted, shown, shown_names
from penstock.gateway.http.tensors.checks import checked_shape, in_order
from penstock.gateway.http.tensors.json_tensors import bytes_from_json
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import NUMPY_OF, Buffer, Tensor

_MISSING = frozenset({"", "nan", "NaN", "NA", "N/A", "null", "NULL", "None"})
"""What a CSV cell without a number says, as in pandas."""

_NO_TEXT = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
    | {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
"""What a CSV cell without a text says to pandas (`pandas._libs.parsers.STR_NA_VALUES`)."""

_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False}
_FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns.

    Attributes:
        columns: their names, or None if they have none.
        rows: each as long as there are columns.
        texts: whether cells are texts, whatever the columns hold: CSV has no types.
    """

    columns: list[str] | None
    rows: list[Sequence[Any]]
    texts: bool = False


def tensors_of_named(interface: ModelInterface, named: dict[str, Any]) -> tuple[Tensor, ...]:
    """Tensors from an object of them; members that are no inputs are ignored, as MLflow does.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    tensors = {}
    for spec in interface.inputs:
        if spec.name in named:
            data = named[spec.name]
            if len(spec.shape) == 1:
                data = data if type(data) is list else [data]  # one row of a column
                data = _without_nulls(interface, spec, data)
            tensors[spec.name] = _tensor(interface, spec, data)
    return in_order(tensors, interface)


def tensors_of_bare(interface: ModelInterface, data: Any) -> tuple[Tensor, ...]:
    """The tensor of a model with one input.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    spec = _only_input(interface)
    if spec is None:
        names = shown_names(each.name for each in interface.inputs)
        raise mismatch("inputs", f"each by its name ({names})", shown(data))
    return in_order({spec.name: _tensor(interface, spec, data)}, interface)


def tensors_of_instances(interface: ModelInterface, instances: Any) -> tuple[Tensor, ...]:
    """Tensors from a list of rows: bare ones, or objects with each input's row.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if type(instances) is dict:
        return tensors_of_named(interface, instances)
    if type(instances) is list and instances and type(instances[0]) is dict:
        return tensors_of_named(interface, _columns_of_records("instances", instances))
    return tensors_of_bare(interface, instances)


def table_of_split(split: Any) -> Table:
    """A data frame as an object of `columns`, `data`, and an `index` that does not matter.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    what = "dataframe_split"
    if type(split) is not dict or not {"data"} <= split.keys() <= {"columns", "data", "index"}:
        expected = 'an object with "data", and with "columns" and "index" or without'
        raise mismatch(what, expected, shown(split) if type(split) is not dict else "other members")
    columns = split.get("columns")
    if columns is not None:
        if type(columns) is not list:
            raise mismatch(f"{what}: columns", "a list of names", shown(columns))
        columns = [str(name) for name in columns]
    rows = split["data"]
    if type(rows) is not list:
        raise mismatch(f"{what}: data", "a list of rows", shown(rows))
    width = len(columns) if columns is not None else _width(rows)
    for position, row in enumerate(rows):
        if type(row) is not list or len(row) != width:
            raise mismatch(f"{what}: data[{position}]", f"a list of {width}", shown(row))
    return Table(columns, rows)


def _width(rows: list[Any]) -> int:
    return len(rows[0]) if rows and type(rows[0]) is list else 0


def table_of_records(records: Any) -> Table:
    """A data frame as a list of objects; what a row lacks is missing there.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if type(records) is not list:
        raise mismatch("dataframe_records", "a list of objects", shown(records))
    columns = _columns_of_records("dataframe_records", records)
    return Table(list(columns), list(zip(*columns.values(), strict=True)))


def tables_of_csv(text: Buffer, rows_max: int | None = None) -> Iterator[Table]:
    """CSV with a line of column names, as `DataFrame.to_csv(index=False)` writes it.

    Args:
        text: in UTF-8.
        rows_max: most rows in a table; None: all are in one.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    lines = (line for line in csv.reader(_lines(text), strict=True) if line)
    try:
        columns = next(lines, None)
        if columns is None:
            raise mismatch("request", "CSV with a line of column names", "no line")
        columns = names_once(columns)
        rows: list[Sequence[Any]] = []
        for position, row in enumerate(lines):
            if len(row) != len(columns):
                got = f"{len(row)}"
                raise mismatch(f"row {position + 1} of the CSV", f"{len(columns)} values", got)
            if len(rows) == rows_max:
                yield Table(columns, rows, texts=True)
                rows = []
            rows.append(row)
        yield Table(columns, rows, texts=True)
    except csv.Error as error:
        raise bad_input(f"request: expected CSV, got a fault ({error})") from None


def names_once(names: Sequence[str]) -> list[str]:
    """Names of columns as pandas reads them from CSV: a second `a` is `a.1`, or the next number.

    `pandas.read_csv` is what MLflow's server reads CSV with (`pandas.io.parsers`,
    `_maybe_dedup_names`).
    """
    seen: dict[str, int] = {}
    given = list(names)
    for position, name in enumerate(names):
        count, new = seen.get(name, 0), name
        while count > 0:
            seen[name] = count + 1
            new = f"{name}.{count}"
            count = count + 1 if new in given else seen.get(new, 0)
        given[position] = new
        seen[new] = count + 1
    return given


def _lines(text: Buffer) -> Iterator[str]:
    """Lines with their ends, of which a byte order mark is no part; decoded one by one."""
    whole = text if isinstance(text, bytes | bytearray) else bytes(text)
    start = len(BOM_UTF8) if whole.startswith(BOM_UTF8) else 0
    try:
        while start < len(whole):
            stop = whole.find(b"\n", start) + 1 or len(whole)
            yield str(whole[start:stop], "utf-8")
            start = stop
    except UnicodeDecodeError:
        raise bad_input("request: expected CSV in UTF-8, got other bytes") from None


def _columns_of_records(what: str, records: list[Any]) -> dict[str, list[Any]]:
    """Values of each member over all records, None where a record lacks it."""
    names: dict[str, None] = {}
    for position, record in enumerate(records):
        if type(record) is not dict:
            raise mismatch(f"{what}[{position}]", "an object", shown(record))
        if record.keys() != names.keys():
            names.update(dict.fromkeys(record))
    return {name: [record.get(name) for record in records] for name in names}


def tensors_of_pieces(
    interface: ModelInterface, pieces: Iterable[tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Tensors of which each piece has some rows.

    Args:
        interface: the model's.
        pieces: each as if it were all.

    Raises:
        ValueError: if they do not go together.
        PenstockError: INVALID_INPUT, if what they are together does not fit the model.
    """
    contents: dict[str, bytearray] = {}
    inner: dict[str, tuple[int, ...]] = {}
    rows: dict[str, int] = {}
    for piece in pieces:
        found = {tensor.name: tensor.shape[1:] for tensor in piece}
        if found != (inner or found):
            raise ValueError("pieces differ")
        inner = found
        for tensor in piece:
            contents.setdefault(tensor.name, bytearray()).extend(tensor.data)
            rows[tensor.name] = rows.get(tensor.name, 0) + tensor.rows
    tensors = {}
    for name, content in contents.items():
        spec = interface.inputs_by_name[name]
        sizes = [rows[name], *inner[name]]
        shape = checked_shape(
            f"input {quoted(name)}", sizes, spec, batches=interface.max_batch_size > 0
        )
        tensors[name] = Tensor(name, spec.datatype, shape, content)
    return in_order(tensors, interface)


def tensors_of_table(interface: ModelInterface, table: Table) -> tuple[Tensor, ...]:
    """Tensors from rows under columns; columns that are no inputs are ignored, as MLflow does.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    specs = interface.inputs
    needed = {spec.name for spec in specs if not spec.optional}
    only = _only_input(interface)
    if table.columns is None or not needed <= set(table.columns):
        if only is not None and len(only.shape) > 1:
            rows = [_cells(interface, only, row, table) for row in table.rows]
            return in_order({only.name: _tensor(interface, only, rows)}, interface)
        if table.columns is None:
            table = Table([spec.name for spec in specs][: _width_of(table)], table.rows)
    _check_once(table.columns or [], specs)
    columns = dict(zip(table.columns or (), zip(*table.rows, strict=True), strict=False))
    tensors = {
        spec.name: _column(interface, spec, _cells(interface, spec, columns[spec.name], table))
        for spec in specs
        if spec.name in columns
    }
    return in_order(tensors, interface)


def _check_once(columns: list[str], specs: Iterable[TensorSpec]) -> None:
    """Columns that the model takes come once; of two, none is the one that was meant."""
    if len(set(columns)) == len(columns):
        return
    for spec in specs:
        found = columns.count(spec.name)
        if found > 1:
            raise mismatch(f"columns: {quoted(spec.name)}", "one column of this name", str(found))


def _width_of(table: Table) -> int:
    return len(table.rows[0]) if table.rows else 0


def _only_input(interface: ModelInterface) -> TensorSpec | None:
    """The input that data without a name is for."""
    needed = [spec for spec in interface.inputs if not spec.optional]
    if len(needed) == 1:
        return needed[0]
    return interface.inputs[0] if len(interface.inputs) == 1 else None


def _cells(
    interface: ModelInterface, spec: TensorSpec, cells: Iterable[Any], table: Table
) -> list[Any]:
    """Values of a column or a row, made from their texts if the table has nothing else."""
    if table.texts and spec.datatype == "BYTES" and interface.scoring:
        # pandas leaves out lines of blanks alone
        return [None if cell in _NO_TEXT or cell.isspace() else cell for cell in cells]
    if not table.texts or spec.datatype == "BYTES":
        return list(cells)
    return [_from_text(spec, cell) for cell in cells]


def _from_text(spec: TensorSpec, text: str) -> Any:
    text = text.strip()
    if text in _MISSING:
        return None
    try:
        if spec.datatype == "BOOL":
            return _BOOLEANS[text]
        if "_" in text or not text.isascii():  # which Python's readers allow in digits
            return text
        if spec.datatype not in (*_FLOATS, "BF16"):
            return int(text)
        number = float(text)
        return number if math.isfinite(number) else text
    except (KeyError, ValueError):
        return text  # to be refused, by its name


def _column(interface: ModelInterface, spec: TensorSpec, values: list[Any]) -> Tensor:
    """A tensor from one column; in columns of numbers with a fraction some may be missing."""
    values = _without_nulls(interface, spec, values)
    if spec.datatype not in _FLOATS or len(spec.shape) != 1 or None not in values:
        return _tensor(interface, spec, values)
    whole = _tensor(interface, spec, [0.0 if value is None else value for value in values])
    array = np.frombuffer(whole.data, NUMPY_OF[spec.datatype]).copy()
    array[[value is None for value in values]] = np.nan
    return Tensor(spec.name, spec.datatype, whole.shape, array.tobytes())


def _without_nulls(interface: ModelInterface, spec: TensorSpec, values: list[Any]) -> list[Any]:
    """Texts of a column that may be left out: a null is an empty text, as an empty cell of CSV.

    Where replicas read bodies themselves, they are to have it as it is.
    """
    if interface.scoring or not (spec.optional and spec.datatype == "BYTES" and None in values):
        return values
    return ["" if value is None else value for value in values]


def _tensor(interface: ModelInterface, spec: TensorSpec, data: Any) -> Tensor:
    """A tensor from nested lists, whose shape is read off their first elements."""
    what = f"input {quoted(spec.name)}"
    if spec.datatype not in NUMPY_OF:
        raise bad_input(f"{what}: datatype {quoted(spec.datatype)} is not supported")
    if type(data) is not list:
        raise mismatch(what, f"lists of {spec.datatype} elements", shown(data))
    sizes: list[int] = []
    inner: Any = data
    while type(inner) is list and len(sizes) < len(spec.shape):
        sizes.append(len(inner))
        inner = inner[0] if inner else None
    shape = checked_shape(what, sizes, spec, batches=interface.max_batch_size > 0)
    # A model's numbers may be booleans in Python's eyes only: look at every element.
    content = bytes_from_json(what, spec.datatype, shape, data, booleans_in_text=True)
    return Tensor(spec.name, spec.datatype, shape, content)

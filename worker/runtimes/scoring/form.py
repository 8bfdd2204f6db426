"""The form in which a model returned what it did, as far as JSON shows it.

A gateway has tensors, of which it makes the JSON that MLflow's server would. A list of numbers is
the same there whether it was an array or a list; a frame, a series and a list of objects are
objects by row; a dictionary is an object of lists. Where there are texts, tensors could not say
which of them are missing (the form is not *exact*): replicas then word answers themselves, a row at
a time. What is nothing of the kind, or holds other things, has no form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pandas as pd

from penstock.shared.contracts.deployment import Returns
from penstock.worker.runtimes.base import UNKNOWN, Form, RowsMisfitError

_NUMBERS = "biuf"
"""Numpy's kinds of numbers."""

_TEXT = "text"

_KIND_OF: dict[type, str] = {bool: "b", int: "i", float: "f"}
"""Of values in lists."""


def form_of(returned: Any) -> Form:
    """The form of what a model returned; `UNKNOWN` where it has none."""
    match returned:
        case pd.DataFrame():
            columns = [_column(returned.iloc[:, i]) for i in range(returned.shape[1])]
            return _keyed("records", list(returned.columns), columns)
        case pd.Series():
            name = 0 if returned.name is None else returned.name
            return _keyed("records", [name], [_column(returned)])
        case Mapping():
            return _keyed("object", list(returned), [_values(each) for each in returned.values()])
        case list() if returned and all(isinstance(row, Mapping) for row in returned):
            return _of_rows(returned)
        case list() | np.ndarray():
            kind = _values(returned)
            return UNKNOWN if not kind else Form("array", (), (kind,), exact=kind in _NUMBERS)
    return UNKNOWN


def merged(one: Form, other: Form) -> Form:
    """The form of what had one form now and another one then."""
    if (one.returns, one.keys, one.kinds) != (other.returns, other.keys, other.kinds):
        return UNKNOWN
    return one if not one.exact else other


def _keyed(returns: Returns, names: Sequence[Any], kinds: Sequence[str]) -> Form:
    """Of columns by name, and the kind of each; empty if it has none."""
    keys = tuple(str(name) for name in names)
    known = all(type(name) in (str, int) for name in names) and len(set(keys)) == len(keys)
    if not keys or not known or "" in kinds:
        return UNKNOWN
    return Form(returns, keys, tuple(kinds), exact=all(kind in _NUMBERS for kind in kinds))


def _of_rows(rows: Sequence[Mapping[Any, Any]]) -> Form:
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        return UNKNOWN
    return _keyed("records", names, [_values([row[name] for row in rows]) for name in names])


def _column(column: Any) -> str:
    """The kind of a frame's column; pandas' own types of numbers may lack some."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in _NUMBERS:
        return str(column.dtype.kind)
    return _TEXT if all(_is_text(each) for each in column.tolist()) else ""


def _values(values: Any) -> str:
    """The kind of an array, or of a list of values or of lists; empty if it has none."""
    if isinstance(values, pd.Series):
        return _column(values)
    if isinstance(values, np.ndarray):
        if values.dtype.kind in _NUMBERS and values.ndim:
            return str(values.dtype.kind)
        return _TEXT if values.ndim and all(map(_is_text, values.ravel().tolist())) else ""
    if not isinstance(values, list) or not values:
        return ""
    plain = [each.item() if isinstance(each, np.generic) else each for each in values]
    types = {type(each) for each in plain}
    if len(types) == 1 and types <= _KIND_OF.keys():
        return _KIND_OF[types.pop()]
    if all(_is_text(each) for each in plain):
        return _TEXT
    if all(isinstance(each, list | np.ndarray) for each in plain):
        inner = {_values(each) for each in plain}
        kind = inner.pop()
        return f"[{kind}]" if kind and not inner else ""  # not exact: the next one may be ragged
    return ""


def _is_text(value: Any) -> bool:
    """Whether it is a text, or one that is missing."""
    return isinstance(value, str) or value is None or value != value


def shares_of(returned: Any, rows: Sequence[int]) -> list[Any]:
    """What a model returned to requests that were executed together, for each of them.

    Args:
        returned: to all; one alone has it as it is.
        rows: of each request.

    Raises:
        RowsMisfitError: if it is not rows, or has others than were executed.
    """
    if len(rows) == 1:
        return [returned]
    ends = list(accumulate(rows, initial=0))
    cut = _cut_of(returned, ends[-1])
    return [cut(start, end) for start, end in pairwise(ends)]


def _cut_of(returned: Any, rows: int) -> Callable[[int, int], Any]:
    """What takes some of the rows out."""
    if isinstance(returned, Mapping):
        cuts = {name: _cut_of(values, rows) for name, values in returned.items()}
        return lambda start, end: {name: cut(start, end) for name, cut in cuts.items()}
    if not isinstance(returned, pd.DataFrame | pd.Series | np.ndarray | list) or (
        isinstance(returned, np.ndarray) and not returned.ndim
    ):
        raise RowsMisfitError(f"a {type(returned).__name__} for a batch of {rows} rows")
    if len(returned) != rows:
        raise RowsMisfitError(f"{len(returned)} rows for a batch of {rows}")
    if isinstance(returned, pd.DataFrame | pd.Series):
        return lambda start, end: returned.iloc[start:end]
    return lambda start, end: returned[start:end]

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
            exact = _values(returned)
            return UNKNOWN if exact is None else Form("array", exact=exact)
    return UNKNOWN


def merged(one: Form, other: Form) -> Form:
    """The form of what had one form now and another one then."""
    if (one.returns, one.keys) != (other.returns, other.keys):
        return UNKNOWN
    return one if not one.exact else other


def _keyed(returns: Returns, names: Sequence[Any], columns: Sequence[bool | None]) -> Form:
    """Of columns by name; for each, whether it is exact, or None if it has no form."""
    keys = tuple(str(name) for name in names)
    known = all(type(name) in (str, int) for name in names) and len(set(keys)) == len(keys)
    if not keys or not known or None in columns:
        return UNKNOWN
    return Form(returns, keys, exact=all(columns))


def _of_rows(rows: Sequence[Mapping[Any, Any]]) -> Form:
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        return UNKNOWN
    return _keyed("records", names, [_values([row[name] for row in rows]) for name in names])


def _column(column: Any) -> bool | None:
    """Of a frame's column; pandas' own types of numbers may lack some."""
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in _NUMBERS:
        return True
    return False if all(_is_text(each) for each in column.tolist()) else None


def _values(values: Any) -> bool | None:
    """Of an array, or of a list of values or of lists."""
    if isinstance(values, pd.Series):
        return _column(values)
    if isinstance(values, np.ndarray):
        if values.dtype.kind in _NUMBERS and values.ndim:
            return True
        return False if all(_is_text(each) for each in values.ravel().tolist()) else None
    if not isinstance(values, list) or not values:
        return None
    plain = [each.item() if isinstance(each, np.generic) else each for each in values]
    kinds = {type(each) for each in plain}
    if kinds <= {int, float, bool}:
        return len(kinds) == 1  # an array would make floats of whole numbers beside others
    if all(_is_text(each) for each in plain):
        return False
    if all(isinstance(each, list | np.ndarray) and _values(each) is not None for each in plain):
        return False  # the next one may be ragged
    return None


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

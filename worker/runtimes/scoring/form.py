"""The form in which a model returned what it did, as far as JSON shows it.

A gateway has tensors, of which it makes the JSON that MLflow's server would. A list of numbers is
the same there whether it was an array or a list; a frame, a series and a list of objects are
objects by row; a dictionary is an object of lists. What holds anything but numbers has no form
here: tensors could not say what is missing in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from penstock.shared.contracts.deployment import Returns
from penstock.worker.runtimes.base import UNKNOWN, Form

_NUMBERS = "biuf"
"""Numpy's kinds of numbers."""


def form_of(returned: Any) -> Form:
    """The form of what a model returned; `UNKNOWN` where numbers alone do not tell it."""
    match returned:
        case pd.DataFrame():
            plain = all(_is_plain(returned.iloc[:, i]) for i in range(returned.shape[1]))
            return _keyed("records", list(returned.columns), plain)
        case pd.Series():
            name = 0 if returned.name is None else returned.name
            return _keyed("records", [name], _is_plain(returned))
        case np.ndarray():
            return Form("array") if returned.dtype.kind in _NUMBERS and returned.ndim else UNKNOWN
        case Mapping():
            plain = all(form_of(value) == Form("array") for value in returned.values())
            return _keyed("object", list(returned), plain)
        case list() if returned and all(isinstance(row, Mapping) for row in returned):
            return _of_rows(returned)
        case list() if returned and _is_of_one_kind(returned):
            return Form("array")
    return UNKNOWN


def _keyed(returns: Returns, names: Sequence[Any], plain: bool) -> Form:
    known = all(type(name) in (str, int) for name in names)
    keys = tuple(str(name) for name in names)
    return (
        Form(returns, keys) if plain and known and keys and len(set(keys)) == len(keys) else UNKNOWN
    )


def _of_rows(rows: Sequence[Mapping[Any, Any]]) -> Form:
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        return UNKNOWN
    plain = all(_is_of_one_kind([row[name] for row in rows]) for name in names)
    return _keyed("records", names, plain)


def _is_plain(column: Any) -> bool:
    """Whether a column is one of numpy's numbers; pandas' own types may lack some."""
    return isinstance(column.dtype, np.dtype) and column.dtype.kind in _NUMBERS


def _is_of_one_kind(values: Sequence[Any]) -> bool:
    """Whether values are numbers of one type, which an array keeps. Lists of lists may be ragged
    the next time."""
    kinds = {
        type(value.item()) if isinstance(value, np.generic) else type(value) for value in values
    }
    return len(kinds) == 1 and kinds <= {int, float, bool}

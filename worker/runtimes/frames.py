"""Tensors to and from what MLflow's pyfunc models take and give: arrays, data frames, lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.mlflow_model import COLUMN_DATATYPES, Column
from penstock.worker.runtimes.results import Result, ResultError, are_texts, array_of


def frame_of(inputs: Mapping[str, AnyArray], columns: Sequence[Column]) -> pd.DataFrame:
    """A data frame with a column for each tensor that is there.

    Args:
        inputs: by the names of the interface, in the columns' order.
        columns: of the signature; if they have no names, the frame's are numbers.

    Raises:
        ValueError: if text is not UTF-8, no time where a time is expected, or no JSON where what it
            says is structured.
    """
    series: dict[Any, Any] = {}
    for position, column in enumerate(columns):
        array = inputs.get(column.name or f"input-{position}")
        if array is not None:
            series[column.name or position] = _series(array, column.kind)
    return pd.DataFrame(series)


def _series(array: AnyArray, kind: str) -> Any:
    if kind not in COLUMN_DATATYPES:
        return pd.Series([structured(text) for text in array.tolist()], dtype=object)
    if kind == "binary":
        return pd.Series(array, dtype=object)
    if kind == "string":
        return pd.Series(strings(array))  # of the type that pandas gives to text, as in training
    if kind == "datetime":
        return _times(strings(array))
    return array.copy()  # a model may write into what it gets, which messages forbid


def structured(text: bytes) -> Any:
    """What a JSON text says, of which no tensor is made.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error


def _times(texts: AnyArray) -> Any:
    """As MLflow's scoring server makes times of texts: the empty one is none.

    Raises:
        ValueError: for what is no time, is out of range, or has a zone, as MLflow refuses those.
    """
    times = pd.Series(texts, dtype=object).astype("datetime64[ns]")
    if getattr(times.dtype, "tz", None) is not None:
        raise ValueError(f"a time with a zone, where one without is expected: {texts.flat[0]!r}")
    return times


def strings(array: AnyArray) -> AnyArray:
    """BYTES elements as `str`.

    Raises:
        UnicodeDecodeError: if one is not UTF-8.
    """
    text = np.empty(array.size, np.object_)
    text[:] = [item.decode() for item in array.ravel().tolist()]
    return text.reshape(array.shape)


def result_of(returned: Any, specs: Sequence[TensorSpec]) -> Result:
    """What a model returned, as arrays.

    Args:
        specs: of its outputs; none if they are still to be found out.

    Raises:
        ResultError: if nothing can be made of it.
    """
    match returned:
        case pd.DataFrame() if len(specs) == 1 and len(returned.columns) > 1:
            text = specs[0].datatype == "BYTES" and returned.dtypes.nunique() > 1
            return returned.to_numpy(np.object_ if text else None)
        case pd.DataFrame():
            return {str(name): _array(returned[name]) for name in returned.columns}
        case Mapping():
            texts = are_texts([str(name) for name in returned], specs)
            return {
                str(name): _array(value, text=text)
                for (name, value), text in zip(returned.items(), texts, strict=True)
            }
        case tuple():
            texts = are_texts([""] * len(returned), specs)
            return [_array(value, text=text) for value, text in zip(returned, texts, strict=True)]
        case list() if returned and all(isinstance(row, Mapping) for row in returned):
            return result_of(_frame_of_rows(returned, specs), specs)
        case None | str() | bytes():
            raise ResultError(f"the model returned {type(returned).__name__}, not one row each")
    return _array(returned, text=bool(specs) and specs[0].datatype == "BYTES")


def _frame_of_rows(rows: Sequence[Mapping[Any, Any]], specs: Sequence[TensorSpec]) -> pd.DataFrame:
    """A frame of rows by name, in which numbers that are to be texts keep their own types."""
    frame = pd.DataFrame(rows)
    names = list(frame.columns)
    one = len(specs) == 1 and specs[0].datatype == "BYTES"
    texts = [True] * len(names) if one else are_texts([str(name) for name in names], specs)
    mixed = [
        name
        for name, text in zip(names, texts, strict=True)
        if text and getattr(frame[name].dtype, "kind", "O") in "biuf"
    ]
    if mixed:
        frame[mixed] = pd.DataFrame(rows, dtype=object)[mixed]
    return frame


def without_frames(yielded: Any, specs: Sequence[TensorSpec]) -> Any:
    """What a model yielded, with arrays for frames and their columns, and all else as it is."""
    match yielded:
        case pd.DataFrame():
            return result_of(yielded, specs)
        case Mapping():
            return {name: _without_series(value) for name, value in yielded.items()}
    return _without_series(yielded)


def _without_series(value: Any) -> Any:
    return _array(value) if isinstance(value, pd.Series | pd.Index) else value


def _array(value: Any, *, text: bool = False) -> AnyArray:
    if isinstance(value, pd.Series | pd.Index):
        array: AnyArray = value.to_numpy()
    elif hasattr(value, "toarray"):  # sparse
        array = value.toarray()
    else:
        array = array_of(value, text=text)
    return array

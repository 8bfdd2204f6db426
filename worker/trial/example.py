"""The example that MLflow keeps beside a model (`input_example`), as tensors of its interface.

MLflow writes it as the payload that its own scoring server would take, or as the frame or array
that was given. An example that does not fit the interface is none: it only helps to try the model.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.tensors import NUMPY_OF, AnyArray, shape_fits
from penstock.worker.runtimes.mlflow_model import MLmodel

EXAMPLE_BYTES_MAX = 16 * 1024 * 1024
"""Larger examples are not read: a few rows are all that is needed."""

SHOWN_BYTES_MAX = 4096
"""Longest example that gateways are sent: every replica sends it when it introduces itself."""

log = get_logger("trial")


def read_example(
    folder: Path, mlmodel: MLmodel | None, inputs: Sequence[TensorSpec]
) -> dict[str, AnyArray] | None:
    """An array for each input, all with as many rows, at least one; None if there are none.

    Args:
        folder: of the model.
        mlmodel: what MLflow says of it.
        inputs: of its interface, which begin with the batch dimension.
    """
    if mlmodel is None or not mlmodel.example:
        return None
    path = folder / mlmodel.example
    try:
        if path.stat().st_size > EXAMPLE_BYTES_MAX:
            return None
        # MLflow writes NaN, which is no JSON to stricter readers.
        columns = _by_name(json.loads(path.read_bytes()), inputs)
        columns = _without_missing_texts(columns, inputs)
        binary = _binary_inputs(mlmodel, inputs)
        arrays = {
            spec.name: _array(columns[spec.name], spec, binary=spec.name in binary)
            for spec in inputs
            if not (spec.optional and columns.get(spec.name) is None)
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        log.info("the input example is not used", reason=f"{type(error).__name__}: {error}"[:500])
        return None
    rows = {len(array) for array in arrays.values()}
    return arrays if len(rows) == 1 and rows != {0} else None


def read_body(folder: Path, mlmodel: MLmodel | None) -> bytes:
    """The author's example as MLflow's scoring server would get it; empty if there is none."""
    if mlmodel is None or not mlmodel.body:
        return b""
    path = folder / mlmodel.body
    try:
        return path.read_bytes() if path.stat().st_size <= EXAMPLE_BYTES_MAX else b""
    except OSError:
        return b""


def shown_example(body: bytes) -> str:
    """An example as people are shown it; empty if it is too long, or no JSON to strict readers."""
    if len(body) > SHOWN_BYTES_MAX:
        return ""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    return body.decode()


def _binary_inputs(mlmodel: MLmodel, inputs: Sequence[TensorSpec]) -> set[str]:
    """Names of the inputs whose texts MLflow wrote in base64."""
    columns = mlmodel.input_columns
    if columns is None:
        return set()
    pairs = zip(inputs, columns, strict=True)
    return {spec.name for spec, column in pairs if column.kind == "binary"}


def _by_name(document: Any, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Each input's list of rows.

    Raises:
        ValueError, KeyError, TypeError: if it is no example of these inputs.
    """
    if isinstance(document, Mapping):
        for form in ("dataframe_split", "dataframe_records", "inputs", "instances"):
            if form in document:
                return _by_name(document[form], inputs)
        if "data" in document and set(document) <= {"columns", "data", "index"}:
            return _of_frame(document, inputs)
        return {str(name): value for name, value in document.items()}
    if isinstance(document, list) and document and isinstance(document[0], Mapping):
        return {spec.name: [row[spec.name] for row in document] for spec in inputs}
    if len(inputs) != 1:
        raise ValueError("one list for several inputs")
    return {inputs[0].name: document}


def _of_frame(frame: Mapping[str, Any], inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    columns = list(zip(*frame["data"], strict=True))
    names = frame.get("columns") or range(len(columns))
    if set(names) == set(range(len(columns))):
        names = [spec.name for spec in inputs]
    return dict(zip(map(str, names), columns, strict=True))


def _without_missing_texts(
    columns: Mapping[str, Any], inputs: Sequence[TensorSpec]
) -> dict[str, Any]:
    """The rows that have all their texts: a tensor cannot say that one is missing."""
    texts = [
        columns[spec.name]
        for spec in inputs
        if spec.datatype == "BYTES" and columns.get(spec.name) is not None
    ]
    missing = {
        position for values in texts for position, value in enumerate(values) if _is_missing(value)
    }
    if not missing:
        return dict(columns)
    return {
        name: [value for position, value in enumerate(values) if position not in missing]
        for name, values in columns.items()
    }


def _is_missing(value: Any) -> bool:
    return value is None or value != value


def _array(values: Any, spec: TensorSpec, *, binary: bool) -> AnyArray:
    if spec.datatype == "BYTES":
        nested = np.array(values, np.object_)
        flat = np.empty(nested.size, np.object_)
        flat[:] = [_text(value, binary=binary) for value in nested.reshape(-1)]
        array: AnyArray = flat.reshape(nested.shape)
    else:
        array = np.array(values)
        if array.dtype.kind == "O":  # null in a column of numbers
            array = array.astype(np.float64)
        dtype = NUMPY_OF[spec.datatype]
        if dtype.kind in "iub" and not np.array_equal(array.astype(dtype), array):
            raise ValueError(f"{spec.name} is not {spec.datatype}")
        array = array.astype(dtype)
    if not shape_fits(array.shape, spec.shape):
        raise ValueError(f"{spec.name} has shape {list(array.shape)}, not {list(spec.shape)}")
    return array


def _text(value: Any, *, binary: bool) -> bytes:
    if value is None:
        raise ValueError("a text is null")
    if binary:  # with line ends, as MLflow writes and reads it
        return base64.decodebytes(str(value).encode())
    return str(value).encode()

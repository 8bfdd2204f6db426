"""What a model's code returns, as the arrays that its interface promises. Pure array work.

Models return an array, several of them in a tuple, or by name in a mapping. Frames and tensors of
a library are turned into these by the library's runtime.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date

import numpy as np

from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import DATATYPE_OF, NUMPY_OF, AnyArray
from penstock.worker.runtimes.base import ExecutionError, ModelLoadError
from penstock.worker.trial.invented import invented_inputs

MICROSECOND_DIGITS = 6
NANOSECOND_DIGITS = 9

Result = AnyArray | Sequence[AnyArray] | Mapping[str, AnyArray]
"""One array, several in order, or several by name."""


_COMMON_KINDS = "biufcSU"
"""Numpy's kinds that elements of several types may have become."""


_KIND_OF = defaultdict(str, {"b": "boolean", "i": "whole", "u": "whole", "f": "number"})
"""What JSON makes of numpy's kinds."""


class ResultError(ValueError):
    """A model returned what its interface does not allow."""


def arrange(result: Result, specs: Sequence[TensorSpec]) -> list[AnyArray]:
    """An array for every output, in order and of its datatype, with as many rows as it has.

    Raises:
        ResultError: if the model returned something else.
    """
    arrays = _in_order(result, specs)
    return [_fitted(array, spec) for array, spec in zip(arrays, specs, strict=True)]


def arrange_one(result: Result, specs: Sequence[TensorSpec], *, batches: bool) -> list[AnyArray]:
    """The same for one row, which may come without its batch dimension.

    Args:
        result: what the model gave for one row.
        specs: its outputs.
        batches: whether it has a batch dimension.

    Raises:
        ResultError: if the model gave something else.
    """
    arrays = _in_order(result, specs)
    if not batches:
        return arrange(arrays, specs)
    rows = [
        array[np.newaxis] if array.ndim == len(spec.shape) - 1 else array
        for array, spec in zip(arrays, specs, strict=True)
    ]
    for array, spec in zip(rows, specs, strict=True):
        if array.ndim == 0 or array.shape[0] != 1:
            shape = list(array.shape)
            raise ResultError(f"output {spec.name!r} has shape {shape} for a batch of 1 rows")
    return arrange(rows, specs)


def array_of(value: object, *, text: bool) -> AnyArray:
    """What a model gave for one output, as an array.

    Args:
        value: an array, a list of any depth, or one value.
        text: whether the output is of text: its elements then keep their own types, of which numpy
            would make a common one (1 beside 2.5 would be the text 1.0).

    Raises:
        ValueError: for a ragged list.
    """
    array = np.asarray(value)
    if text and isinstance(value, list | tuple) and array.dtype.kind in _COMMON_KINDS:
        array = np.array(value, np.object_)
    return array


def are_texts(names: Sequence[str], specs: Sequence[TensorSpec]) -> list[bool]:
    """Whether what a model gave by these names are outputs of text, by name or else by place."""
    texts = {spec.name: spec.datatype == "BYTES" for spec in specs}
    if texts.keys() <= set(names):
        return [texts.get(name, False) for name in names]
    return [*texts.values(), *[False] * len(names)][: len(names)]


def same_values(result: Result, specs: Sequence[TensorSpec]) -> bool:
    """Whether the outputs that were promised say the same as what was returned, as JSON has it.

    Raises:
        ResultError: if the model returned something else.
    """
    pairs = zip(_in_order(result, specs), specs, strict=True)
    return all(
        array.ndim == len(spec.shape)
        and _KIND_OF[array.dtype.kind] == _KIND_OF[NUMPY_OF[spec.datatype].kind] != ""
        and np.can_cast(array.dtype, NUMPY_OF[spec.datatype], "safe")
        for array, spec in pairs
    )


def _in_order(result: Result, specs: Sequence[TensorSpec]) -> Sequence[AnyArray]:
    if isinstance(result, np.ndarray):
        several = len(specs) > 1 and result.ndim > 1 and result.shape[1] == len(specs)
        result = [result[:, i] for i in range(len(specs))] if several else [result]
    if isinstance(result, Mapping):
        if all(spec.name in result for spec in specs):
            return [result[spec.name] for spec in specs]
        if len(result) != len(specs):
            wanted, got = [spec.name for spec in specs], list(result)
            raise ResultError(f"the model returned {got[:20]}, its outputs are {wanted[:20]}")
        result = list(result.values())
    if len(result) != len(specs):
        raise ResultError(f"the model returned {len(result)} arrays for {len(specs)} outputs")
    return result


def _fitted(array: AnyArray, spec: TensorSpec) -> AnyArray:
    if array.ndim != len(spec.shape):
        array = _with_dimensions(array, spec)
    dtype = NUMPY_OF[spec.datatype]
    if dtype.kind == "O":
        return as_text(array)
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise ResultError(f"output {spec.name!r} has type {array.dtype}, not {spec.datatype}")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if not np.can_cast(array.dtype, dtype, "safe"):
        beyond = np.isinf(cast) != np.isinf(array) if dtype.kind == "f" else cast != array
        if beyond.any():
            value = array[beyond].flat[0]
            raise ResultError(f"output {spec.name!r} has {value}, which is beyond {spec.datatype}")
    return cast


def _with_dimensions(array: AnyArray, spec: TensorSpec) -> AnyArray:
    """Signatures of vectors often meet columns of size 1, and the other way round."""
    inner = spec.shape[1:]
    squeezed = tuple(size for size in array.shape[1:] if size != 1)
    if spec.shape and squeezed == tuple(size for size in inner if size != 1):
        return array.reshape((array.shape[0] if array.ndim else 1, *inner))
    raise ResultError(f"output {spec.name!r} has shape {list(array.shape)}, not {list(spec.shape)}")


def as_text(array: AnyArray) -> AnyArray:
    """Elements as `bytes`; what is missing is empty, and times are as MLflow writes a frame's."""
    if array.dtype.kind == "M":
        texts = np.where(np.isnat(array), "", np.datetime_as_string(array)).astype(object)
        array = np.array([_shortened(text) for text in texts.flat], object).reshape(array.shape)
    text = np.empty(array.size, np.object_)
    text[:] = [_bytes(item) for item in array.ravel().tolist()]
    return text.reshape(array.shape)


def _bytes(item: object) -> bytes:
    if item is None or item != item:  # not a number: what libraries put where nothing is
        return b""
    if isinstance(item, date):  # a time too, of pandas or Python
        return item.isoformat().encode()
    return item if isinstance(item, bytes) else str(item).encode()


def _shortened(time: str) -> str:
    """A time in ISO 8601 with no fraction, or one of micro- or nanoseconds, as pandas has it."""
    whole, _, fraction = time.partition(".")
    fraction = fraction.rstrip("0")
    if not fraction:
        return whole
    digits = MICROSECOND_DIGITS if len(fraction) <= MICROSECOND_DIGITS else NANOSECOND_DIGITS
    return f"{whole}.{fraction:0<{digits}}"


def discover_outputs(
    run: Callable[[Mapping[str, AnyArray]], Result],
    inputs: Sequence[TensorSpec],
    example: Mapping[str, AnyArray] | None = None,
    *,
    may_execute: bool = True,
) -> tuple[TensorSpec, ...]:
    """What a model without an output signature gives, found out by running it: on one row and two.

    Args:
        run: executes the model.
        inputs: of its signature.
        example: rows of the model's author; without them, rows of zeros are made up.
        may_execute: whether it may be run before its first request.

    Raises:
        ModelLoadError: if it may not, or cannot run on those.
    """
    batched = all(spec.shape[:1] == (-1,) for spec in inputs)
    made = _rows(example, 1) if example and batched else None
    made = made or invented_inputs(inputs, 1 if batched else None)
    if made is None or not may_execute:
        why = "" if may_execute else ", since it is not to be executed before its first request"
        message = f"the model has no output signature, and needs one{why}"
        raise ModelLoadError(message, invalid=True)
    try:
        single = _with_names(run(made))
    except ExecutionError as error:
        made_of = "its example" if example else "zeros"
        raise ModelLoadError(
            f"the signature names no outputs, and a trial run on {made_of} to find them out "
            f"failed: {error}"
        ) from error
    double = _shapes_of_two(run, made) if batched else {}
    return tuple(
        _found(name, np.asarray(array), batched, double.get(name)) for name, array in single
    )


def _rows(example: Mapping[str, AnyArray], count: int) -> dict[str, AnyArray]:
    return {name: array[:count] for name, array in example.items()}


def _shapes_of_two(
    run: Callable[[Mapping[str, AnyArray]], Result], row: Mapping[str, AnyArray]
) -> dict[str, tuple[int, ...]]:
    """What the outputs are shaped like for two rows; nothing if the model takes one at a time."""
    try:
        result = run({name: array.repeat(2, axis=0) for name, array in row.items()})
    except ExecutionError:
        return {}
    return {name: np.asarray(array).shape for name, array in _with_names(result)}


def _with_names(result: Result) -> list[tuple[str, AnyArray]]:
    if isinstance(result, Mapping):
        return [(str(name), array) for name, array in result.items()]
    arrays = [result] if isinstance(result, np.ndarray) else result
    return [(f"output-{position}", array) for position, array in enumerate(arrays)]


def _found(name: str, array: AnyArray, batched: bool, of_two: tuple[int, ...] | None) -> TensorSpec:
    datatype = "BYTES" if array.dtype.kind in "OUSM" else DATATYPE_OF.get(array.dtype)
    if datatype is None:
        message = f"output {name!r} has type {array.dtype}, which has no datatype"
        raise ModelLoadError(message, invalid=True)
    shape = list(array.shape)
    if batched and shape[:1] == [1]:
        shape[0] = -1
    if of_two is not None and len(of_two) == len(shape):
        shape = [
            size if size in (-1, other) else -1 for size, other in zip(shape, of_two, strict=True)
        ]
    return TensorSpec(name=name, datatype=datatype, shape=tuple(shape))

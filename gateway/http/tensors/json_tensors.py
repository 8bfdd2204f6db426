"""Tensor data in JSON to raw bytes, strictly.

Theory: `array.array` fills itself from a list in C, and refuses what does not belong: strings,
nulls and lists among numbers, fractions among integers, integers out of range. That is both the
fastest check and the strictest one (numpy would turn "1.5" into 1.5 and null into NaN). It accepts
`true` as 1, so element types are looked at too, but only if the request's text contains a boolean
at all. What it refuses is walked again slowly, only to find the element to name in the message.

Data may be nested to the stated shape or flat in row-major order. Memory is bounded by the data
that came: a shape is only ever compared with it.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from penstock.gateway.http.tensors.bad_input import mismatch, path_of, quoted, shown, shown_shape
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.tensors import (
    NUMPY_OF,
    Tensor,
    array_from_tensor,
    bf16_bits,
    bf16_values,
    decode_bytes_elements,
    encode_bytes_elements,
)

NESTING_MAX = 64
"""Deepest nesting in which a non-finite number is looked for: numpy's limit on dimensions."""


BF16_MAX = float(bf16_values(np.array([0x7F7F], np.uint16))[0])


@dataclass(frozen=True, slots=True)
class Numbers:
    """What may stand in the data of a numeric tensor.

    Attributes:
        typecode: of the `array.array` that takes it in, 8 bytes wide for FP16 and BF16.
        low, high: smallest and largest value.
        whole: only integers.
        may_overflow: a finite number in JSON may be beyond the datatype, unnoticed by the array.
    """

    typecode: str
    low: float
    high: float
    whole: bool
    may_overflow: bool = False


def _integers(datatype: str, typecode: str) -> Numbers:
    limits = np.iinfo(NUMPY_OF[datatype])
    return Numbers(typecode, int(limits.min), int(limits.max), whole=True)


def _floats(datatype: str, typecode: str, may_overflow: bool) -> Numbers:
    high = float(np.finfo(NUMPY_OF[datatype]).max)
    return Numbers(typecode, -high, high, whole=False, may_overflow=may_overflow)


NUMBERS: dict[str, Numbers] = {
    "INT8": _integers("INT8", "b"),
    "INT16": _integers("INT16", "h"),
    "INT32": _integers("INT32", "i"),
    "INT64": _integers("INT64", "q"),
    "UINT8": _integers("UINT8", "B"),
    "UINT16": _integers("UINT16", "H"),
    "UINT32": _integers("UINT32", "I"),
    "UINT64": _integers("UINT64", "Q"),
    "FP16": _floats("FP16", "d", may_overflow=True),
    "BF16": Numbers("d", -BF16_MAX, BF16_MAX, whole=False, may_overflow=True),
    "FP32": _floats("FP32", "f", may_overflow=True),
    "FP64": _floats("FP64", "d", may_overflow=False),
}

_STRUCT_CODES = {name: NUMBERS[name].typecode for name in NUMBERS.keys() - {"FP16", "BF16"}}

LAYOUTS_MAX = 256
"""Datatypes and counts of numbers whose layout is remembered."""

LETTERS_MAX = 64
"""Most single letters looked at before a text is searched for the word."""

PACKED_MAX = 64 * 1024
"""Most numbers packed in one step: their list is copied for that."""


def bytes_from_json(
    what: str, datatype: str, shape: tuple[int, ...], data: Any, booleans_in_text: bool
) -> bytes:
    """Raw content of a tensor whose elements came as JSON.

    Args:
        what: names the tensor in messages, as in `input "x"`.
        datatype: one of `penstock.shared.wire.tensors.NUMPY_OF`.
        shape: as stated in the request, and found to fit the model.
        data: the tensor's `data`.
        booleans_in_text: whether `true` or `false` occurs anywhere in the request's JSON.

    Raises:
        PenstockError: INVALID_INPUT, if the data does not fit shape or datatype.
    """
    if type(data) is not list:
        raise mismatch(what, f"a list of {datatype} elements as data", shown(data))
    if not booleans_in_text:
        content = packed(datatype, math.prod(shape), data)
        if content is not None:
            return content
    nested = len(shape) > 1 and len(data) > 0 and type(data[0]) is list
    dims = shape if nested else (math.prod(shape),)
    numbers = NUMBERS.get(datatype)
    if numbers is None:
        return _encode_others(what, datatype, shape, dims, data)
    target = array(numbers.typecode)
    try:
        for row in _rows(what, shape, dims, data, ()):
            if booleans_in_text and bool in set(map(type, row)):
                raise TypeError
            target.fromlist(row)
    except (TypeError, OverflowError):
        raise _explain(what, datatype, dims, data) from None
    return encode_numbers(
        what=what, datatype=datatype, numbers=numbers, target=target, dims=dims, data=data
    )


def may_hold_booleans(text: bytes | bytearray) -> bool:
    """Whether `true` or `false` occurs anywhere in a text.

    The letters u and l are rare among numbers, and to find a letter is twenty times as fast as to
    find a word.
    """
    return _holds(text, b"u", b"true", 2) or _holds(text, b"l", b"false", 2)


def _holds(text: bytes | bytearray, letter: bytes, word: bytes, offset: int) -> bool:
    """Whether a word occurs, which has the letter at the offset."""
    at = text.find(letter)
    for _ in range(LETTERS_MAX):
        if at < 0:
            return False
        if text.startswith(word, max(at - offset, 0)):
            return True
        at = text.find(letter, at + 1)
    return word in text


def packed(datatype: str, count: int, data: list[Any]) -> bytes | None:
    """Flat numbers in one step, which is twice as fast; None if that is not so simple.

    `struct` is as strict as `array` is, and refuses what overflows as well.
    """
    if datatype not in _STRUCT_CODES or len(data) != count or count > PACKED_MAX:
        return None
    try:
        return _layout(datatype, count).pack(*data)
    except (struct.error, OverflowError):
        return None


@lru_cache(LAYOUTS_MAX)
def _layout(datatype: str, count: int) -> struct.Struct:
    return struct.Struct(f"<{count}{_STRUCT_CODES[datatype]}")


def encode_numbers(
    what: str,
    datatype: str,
    numbers: Numbers,
    target: array[Any],
    dims: tuple[int, ...],
    data: Any,
) -> bytes:
    """Raw content of a tensor whose numbers are in an array; `data` is where they came from.

    Raises:
        PenstockError: INVALID_INPUT, if one of them is beyond the datatype.
    """
    if not numbers.may_overflow or not target:
        return target.tobytes()
    if datatype == "FP16":
        with np.errstate(over="ignore"):
            values = np.frombuffer(target, dtype=np.float64).astype(np.float16)
    elif datatype == "BF16":
        bits = bf16_bits(np.frombuffer(target, dtype=np.float64))
        if not np.isfinite(bf16_values(bits)).all():
            raise _explain(what, datatype, dims, data)
        return bits.tobytes()
    else:
        values = np.frombuffer(target, dtype=NUMPY_OF[datatype])
    if not np.isfinite(values).all():
        raise _explain(what, datatype, dims, data)
    return values.tobytes()


def _encode_others(
    what: str, datatype: str, shape: tuple[int, ...], dims: tuple[int, ...], data: list[Any]
) -> bytes:
    """BOOL and BYTES: JSON's own types, so that a look at the element types decides."""
    wanted = bool if datatype == "BOOL" else str
    elements: list[Any] = []
    for row in _rows(what, shape, dims, data, ()):
        if not set(map(type, row)) <= {wanted}:
            raise _explain(what, datatype, dims, data)
        elements += row
    return bytes(elements) if datatype == "BOOL" else encode_bytes_elements(elements)


def _rows(
    what: str, shape: tuple[int, ...], dims: tuple[int, ...], data: Any, at: tuple[int, ...]
) -> Iterator[list[Any]]:
    """The innermost lists in order, each found to be a list of the right length."""
    size = dims[len(at)]
    if type(data) is not list:
        raise mismatch(what, f"a list of {size} at {path_of(at)}", shown(data))
    if len(data) != size:
        where = f" at {path_of(at)}" if at else ""
        expected = f"{size} element{'' if size == 1 else 's'}{where} for shape {shown_shape(shape)}"
        raise mismatch(what, expected, str(len(data)))
    if len(at) + 1 == len(dims):
        yield data
        return
    for index, child in enumerate(data):
        yield from _rows(what, shape, dims, child, (*at, index))


def _explain(what: str, datatype: str, dims: tuple[int, ...], data: Any) -> PenstockError:
    """The error that names the first element that does not fit."""
    for value, at in _elements(dims, data, ()):
        expected = _expected_instead(value, datatype)
        if expected is not None:
            return mismatch(what, expected, f"{shown(value)} at {path_of(at)}")
    return mismatch(what, f"{datatype} elements", "something else")


def _elements(
    dims: tuple[int, ...], data: Any, at: tuple[int, ...]
) -> Iterator[tuple[Any, tuple[int, ...]]]:
    if len(at) == len(dims) or type(data) is not list:
        yield data, at
        return
    for index, child in enumerate(data):
        yield from _elements(dims, child, (*at, index))


def _expected_instead(value: Any, datatype: str) -> str | None:
    """What should have stood where a value is, or None if the value fits."""
    if datatype == "BOOL":
        return None if type(value) is bool else "BOOL elements (true or false)"
    if datatype == "BYTES":
        return None if type(value) is str else "BYTES elements (strings)"
    numbers = NUMBERS[datatype]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{datatype} numbers"
    if not math.isfinite(value):
        return f"finite {datatype} numbers"
    if numbers.whole:
        limits = f"whole {datatype} numbers from {numbers.low} to {numbers.high}"
        if isinstance(value, float):  # a fraction, or more digits than any integer type has
            return f"{limits}, written without fraction or exponent"
        return None if numbers.low <= value <= numbers.high else limits
    with np.errstate(over="ignore"):
        if datatype == "BF16":
            nearest: Any = bf16_values(bf16_bits(np.array([value], np.float64)))[0]
        else:
            nearest = NUMPY_OF[datatype].type(value)
    if np.isfinite(nearest):
        return None
    return f"{datatype} numbers of magnitude up to {numbers.high:.6g}"


def first_non_finite(data: Any, depth: int = 0) -> tuple[float, tuple[int, ...]] | None:
    """The first number in nested lists that is not finite, and where it is."""
    if isinstance(data, float):
        return None if math.isfinite(data) else (data, ())
    if not isinstance(data, list) or depth > NESTING_MAX:
        return None
    for index, child in enumerate(data):
        found = first_non_finite(child, depth + 1)
        if found is not None:
            return found[0], (index, *found[1])
    return None


def values_of(tensor: Tensor, shape: tuple[int, ...]) -> Any:
    """A tensor's elements in a shape, as orjson writes them; `null` for numbers not finite.

    Raises:
        PenstockError: MODEL_ERROR, for BYTES that JSON cannot hold.
        ValueError: if the tensor's data does not fit its datatype and shape.
    """
    if tensor.datatype == "BYTES":
        return nested(_texts(tensor), shape)
    array = array_from_tensor(tensor)
    if tensor.datatype == "BF16":
        array = bf16_values(array)
    if not shape:
        return array.reshape(())[()]  # a number: the writer knows no arrays without dimensions
    return np.require(array.reshape(shape), requirements="A")


def flat_values(tensor: Tensor) -> Any:
    """A tensor's elements in a flat list, as orjson writes it; see `values_of`."""
    dtype = _LITTLE.get(tensor.datatype)
    if dtype is None:
        return values_of(tensor, (math.prod(tensor.shape),))
    array = np.frombuffer(tensor.data, dtype)
    if array.size != math.prod(tensor.shape):
        raise ValueError(f"tensor {tensor.name!r}: {array.size} elements for {tensor.shape}")
    return array if array.flags.aligned else array.copy()


_LITTLE = {name: NUMPY_OF[name].newbyteorder("<") for name in NUMPY_OF.keys() - {"BF16", "BYTES"}}


def _texts(tensor: Tensor) -> list[str]:
    elements = decode_bytes_elements(tensor.data, math.prod(tensor.shape))
    try:
        return [str(element, "utf-8") for element in elements]
    except UnicodeDecodeError:
        raise not_text(tensor.name) from None


def not_text(output: str) -> PenstockError:
    """The error of an output that JSON cannot hold."""
    return PenstockError(
        ErrorCode.MODEL_ERROR,
        f"output {quoted(output)}: the model gave BYTES that are not UTF-8 text, which "
        'JSON cannot hold; ask for this output with the parameter "binary_data": true',
    )


def nested(elements: list[str], shape: tuple[int, ...]) -> Any:
    """Elements as lists in a shape."""
    if len(shape) == 1:
        return elements
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape).tolist()

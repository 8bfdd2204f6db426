"""Large arrays of numbers in JSON, read piece by piece: pure and synchronous.

Theory: a JSON reader makes an object of some 50 bytes of each number before we make 4 of it. So
the long lists that follow a `"data":` are set aside (see `large_lists` beside this), and the
numbers are read a piece at a time into their array: those of FP32 and FP64 by simdjson, which makes
no objects (half the time: at 784 numbers 10 instead of 22 µs, Zen 4), others by the same strict
reader as ever. Nothing is read differently: whatever is odd about a list, or about where it lies,
is left to be read as a whole.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from penstock.gateway.http.tensors.bad_input import mismatch
from penstock.gateway.http.tensors.json_tensors import (
    NUMBERS,
    bytes_from_json,
    encode_numbers,
    packed,
)
from penstock.gateway.http.tensors.large_lists import (
    PIECE_BYTES,
    LargeList,
    SetAside,
    document_without,
    large_list,
    mark_of,
)
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.wire.tensors import NUMPY_OF, AnyArray, Buffer

DOCUMENT_BYTES_MIN = 4 * 1024
"""Smallest document that is read so: below, reading all of it at once takes as little time."""

LIST_BYTES_MIN = 256 * 1024
"""Smallest document of which lists of anything but numbers are set aside: it takes a look at all of
it."""

ARRAY_BYTES_MIN: Final = 2 * 1024
"""Smallest list that is set aside."""

SQUARED_MAX = 8192
"""Most numbers of which the sum of squares is taken: quicker than to look at the extremes, but of
more, the library would use threads."""

FP32_MAX = float(np.finfo(np.float32).max)
FP32_MAX_SQUARED = FP32_MAX**2

_DATA = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[')
_COMMA = re.compile(rb",")
_END_OF_ROW = re.compile(rb"\][ \t\r\n]*,")


class LargeArray(SetAside):
    """One of numbers."""


def document_without_arrays(
    text: bytes | bytearray, array_bytes_min: int = ARRAY_BYTES_MIN
) -> dict[str, Any] | None:
    """A request whose tensors' large arrays were set aside, or None if it is to be read whole."""
    found = document_without(text, _DATA, partial(_large_array, array_bytes_min))
    if found is None:
        return None
    document, arrays = found
    return document if _put_back(document, arrays) else None


def _large_array(array_bytes_min: int, text: bytes | bytearray, start: int) -> SetAside | None:
    """The list of data that begins at `start`, if it is to be set aside."""
    stop = _end_of_numbers(text, start)
    if stop - start >= array_bytes_min:
        return LargeArray(memoryview(text)[start:stop])
    if stop or len(text) < LIST_BYTES_MIN:
        return None
    found = large_list(text, start, PIECE_BYTES)
    return found if found.text.nbytes >= array_bytes_min else None


def _end_of_numbers(text: bytes | bytearray, start: int) -> int:
    """Where a list ends that holds neither strings nor objects nor booleans; 0 for another one."""
    quote = text.find(b'"', start)  # not looked for beyond: then all of this is one pass
    last = quote if quote >= 0 else len(text)
    brace = text.find(b"}", start, last)
    end = text.rfind(b"]", start, brace if brace >= 0 else last) + 1
    nested = text.find(b"[", start + 1, end) >= 0 or text.find(b"]", start, end - 1) >= 0
    whole = not nested or text.count(b"[", start, end) == text.count(b"]", start, end)
    words = text.find(b"u", start, end) >= 0 or text.find(b"l", start, end) >= 0
    return end if whole and not words else 0  # the letters of true, false and null


def _put_back(document: dict[str, Any], arrays: list[SetAside]) -> bool:
    """Whether each array was the data of an input, where it is now."""
    entries = document.get("inputs")
    found = 0
    for entry in entries if type(entries) is list else ():
        mark = mark_of(entry.get("data")) if type(entry) is dict else None
        if mark is not None:
            entry["data"] = arrays[mark]
            found += 1
    return found == len(arrays)


def flat_numbers(datatype: str, count: int, text: bytes) -> bytes | None:
    """Raw content of `count` numbers in a flat list; None for whatever is not just that."""
    try:
        if datatype in _FLOATS and len(text) >= ARRAY_BYTES_MIN:
            values = _floats_in(text, datatype)
            return values.tobytes() if values.size == count else None
        if text.find(b"u") >= 0 or text.find(b"l") >= 0:  # as in true and false
            return None
        return packed(datatype, count, orjson.loads(text))
    except (TypeError, ValueError, RuntimeError):
        return None


def bytes_from_large(
    what: str,
    datatype: str,
    shape: tuple[int, ...],
    large: LargeArray,
    piece_bytes: int = PIECE_BYTES,
) -> bytes:
    """Raw content of a tensor; see `penstock.gateway.http.tensors.json_tensors.bytes_from_json`.

    Raises:
        PenstockError: INVALID_INPUT, if the data does not fit shape or datatype.
    """
    try:
        return _read(what, datatype, shape, large.text, piece_bytes)
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError, PenstockError):
        pass  # to be read as a whole, and its fault named
    try:
        data = orjson.loads(large.text)
    except orjson.JSONDecodeError as error:
        got = f"a fault at character {error.pos} of data"
        raise mismatch(what, f"{datatype} elements in JSON", got) from None
    return bytes_from_json(what, datatype, shape, data, booleans_in_text=False)


def bytes_from_large_list(
    what: str, datatype: str, shape: tuple[int, ...], large: LargeList
) -> Buffer:
    """The same for texts and the like.

    Raises:
        PenstockError: INVALID_INPUT, if the data does not fit shape or datatype.
    """
    content = bytearray()
    found = 0
    try:
        for piece in large.pieces():
            found += len(piece)
            content += bytes_from_json(what, datatype, (len(piece),), piece, booleans_in_text=True)
        if found == math.prod(shape):
            return content
    except (ValueError, PenstockError):
        pass  # nested, or at fault: to be read as a whole
    del content
    try:
        data = orjson.loads(large.text)
    except orjson.JSONDecodeError as error:
        got = f"a fault at character {error.pos} of data"
        raise mismatch(what, f"{datatype} elements in JSON", got) from None
    return bytes_from_json(what, datatype, shape, data, booleans_in_text=True)


def _read(
    what: str, datatype: str, shape: tuple[int, ...], text: memoryview, piece_bytes: int
) -> bytes:
    numbers = NUMBERS[datatype]
    inner = text[1:-1]
    nested = bytes(inner[:64]).lstrip()[:1] == b"["
    if nested and len(shape) != 2:
        raise ValueError
    if not nested and datatype in _FLOATS:
        return _read_floats(datatype, math.prod(shape), inner, piece_bytes)
    target = array(numbers.typecode)
    rows_found = 0
    if nested:
        for rows in _pieces(inner, _END_OF_ROW, piece_bytes):
            rows_found += len(rows)
            _add_rows(target, rows, shape[1])
    else:
        for values in _pieces(inner, _COMMA, piece_bytes):
            target.fromlist(values)
    if len(target) != math.prod(shape) or (nested and rows_found != shape[0]):
        raise ValueError  # rows are counted too: those without elements add none
    return encode_numbers(
        what=what, datatype=datatype, numbers=numbers, target=target, dims=shape, data=[]
    )


def _read_floats(datatype: str, count: int, inner: memoryview, piece_bytes: int) -> bytes:
    found = 0
    contents: list[bytes] = []
    for piece in _texts(inner, _COMMA, piece_bytes):
        values = _floats_in(piece, datatype)
        if not values.size:
            raise ValueError
        found += values.size
        contents.append(values.tobytes())
    if found != count:
        raise ValueError
    return contents[0] if len(contents) == 1 else b"".join(contents)


def _floats_in(text: bytes, datatype: str) -> AnyArray:
    """The numbers in a flat list.

    Raises:
        ValueError, TypeError, RuntimeError: if there is anything else in it, or too large a number.
    """
    if text.find(b"[", 1) >= 0:
        raise ValueError  # simdjson would take the numbers of lists within for the list's own
    parsed: Any = simdjson.Parser().parse(text)  # an array; its types say `bytes` of its buffer
    values = np.frombuffer(parsed.as_buffer(of_type="d"))
    if datatype == "FP32" and not _surely_fp32(values):
        raise ValueError
    return values.astype(_FLOATS[datatype], copy=False)


def _surely_fp32(values: NDArray[np.float64]) -> bool:
    """Whether no number is beyond FP32; where it comes near that, the answer may be no."""
    if values.size <= SQUARED_MAX:
        return bool(values.dot(values) < FP32_MAX_SQUARED)
    return bool(max(np.maximum.reduce(values), -np.minimum.reduce(values)) < FP32_MAX)


_FLOATS = {name: NUMPY_OF[name].newbyteorder("<") for name in ("FP32", "FP64")}


def _add_rows(target: array[Any], rows: list[Any], width: int) -> None:
    for row in rows:
        if len(row) != width:
            raise ValueError
        target.fromlist(row)


def _pieces(text: memoryview, cut: re.Pattern[bytes], piece_bytes: int) -> Iterator[list[Any]]:
    """Lists of the elements of a list without its brackets; `cut` ends with a comma between two."""
    for piece in _texts(text, cut, piece_bytes):
        values = orjson.loads(piece)
        if not values:
            raise ValueError  # two commas
        yield values


def _texts(text: memoryview, cut: re.Pattern[bytes], piece_bytes: int) -> Iterator[bytes]:
    """The text of a list without its brackets, as lists of about a size.

    Raises:
        ValueError: if it ends with a comma.
    """
    start = 0
    while start < len(text):
        found = cut.search(text, start + piece_bytes) if len(text) > piece_bytes else None
        stop = found.end() - 1 if found is not None else len(text)
        if found is not None and stop + 1 == len(text):
            raise ValueError
        yield b"".join((b"[", text[start:stop], b"]"))
        start = stop + 1

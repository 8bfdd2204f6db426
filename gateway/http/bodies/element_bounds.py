"""How many values may a body hold? Told from its bytes, before a reader makes objects of them.

Theory: a reader of JSON makes an object of 50 bytes and more of each value, and a value takes two
bytes of text: `[],` ten million times is nothing to send, and gigabytes to hold. So what a model
can take at most is worked out once from its interface. In a body, every value but the outermost
follows a comma or an opening bracket; counting these in slices takes a thousandth of the time that
reading takes. Commas within texts count too at first. Only a body that seems to hold too much is
counted again without what lies between quotes.

Bodies up to `LARGE_BYTES` are not looked at: what they can hold is little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock.gateway.http.tensors.bad_input import mismatch
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer, Tensor

LARGE_BYTES: Final = 256 * 1024
"""Largest body that is read without a look at how much is in it: some 10 MB of objects at most."""

MAX_REQUEST_ELEMENTS = 16 * 1024 * 1024
"""Numbers and texts in one request, by default: as many FP32 as the largest body holds raw."""

LISTS_MAX = 1024 * 1024
"""Most lists and objects where the interface leaves their number open: 64 MB of them."""

BESIDE_MAX = 64 * 1024
"""Most values beside a request's tensors: parameters, outputs asked for, names of columns."""

SURPLUS_COLUMNS = 8
"""How many times wider than the model's inputs a table may be: surplus columns are ignored."""

SLICE_BYTES = 256 * 1024
"""Text looked at in one go: a fraction of a millisecond."""

_COMMA, _NEWLINE, _RETURN, _LIST, _OBJECT, _QUOTE = b',\n\r[{"'


@record
class Allowed:
    """What one request to a model may hold at most.

    Attributes:
        elements: numbers and texts in its tensors.
        lists: lists and objects around them.
    """

    elements: int
    lists: int


def allowed_of(interface: ModelInterface, max_elements: int) -> Allowed:
    """What the interface allows in one request, open sizes bounded by `max_elements` alone."""
    if interface.open_inputs:
        return Allowed(max_elements, LISTS_MAX)
    elements = lists = 0
    for spec in interface.inputs:
        sizes = list(spec.shape)
        elements += _bounded(sizes, max_elements)
        around = [_bounded(sizes[:depth], LISTS_MAX) for depth in range(len(sizes))]
        lists += sum(around) + _bounded(sizes[:1], LISTS_MAX)  # and an object for each row
    return Allowed(min(elements, max_elements), min(lists, LISTS_MAX))


def _bounded(sizes: list[int], most: int) -> int:
    """The product of sizes, empty ones counted as one; `most` where one is open."""
    return most if -1 in sizes else min(most, math.prod(size or 1 for size in sizes))


def check_json(text: Buffer, allowed: Allowed, wider: int = 1) -> None:
    """Refuse a document with more values than the model can take.

    Args:
        text: the document.
        allowed: what its tensors may hold.
        wider: how many times as many elements may come, as some are ignored.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    most_values = allowed.elements * wider + allowed.lists + BESIDE_MAX
    most_lists = allowed.lists + BESIDE_MAX
    if len(text) // 2 <= most_lists:  # no value takes less
        return
    for pieces in (_slices(text), _without_strings(text)):
        lists, values = _count_json(pieces, most_lists, most_values)
        if lists <= most_lists and values <= most_values:
            return
    if lists > most_lists:
        raise mismatch(
            "request", f"JSON with at most {most_lists} lists and objects (for this model)", "more"
        )
    raise mismatch("request", f"JSON with at most {most_values} values (for this model)", "more")


def check_csv(text: Buffer, allowed: Allowed) -> None:
    """Refuse a table with more cells than the model can take; see `check_json`."""
    most = allowed.elements * SURPLUS_COLUMNS + BESIDE_MAX
    if len(text) <= most:
        return
    for pieces in (_slices(text), _without_quoted_cells(text)):
        cells = 0
        for piece in pieces:
            cells += _count(piece, _COMMA) + _count(piece, _NEWLINE) + _count(piece, _RETURN)
            if cells > most:
                break
        if cells <= most:
            return
    raise mismatch("request", f"CSV with at most {most} cells (for this model)", "more")


def check_elements(tensors: Iterable[Tensor], max_elements: int) -> None:
    """Refuse a request with too many numbers and texts.

    Numbers that came as binary data are bounded by the body: nothing is made of them.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    found = 0
    for tensor in tensors:
        if tensor.datatype == "BYTES" or not isinstance(tensor.data, memoryview):
            found += math.prod(tensor.shape)
    if found > max_elements:
        expected = f"at most {max_elements} elements (--max-request-elements)"
        raise mismatch("inputs", expected, str(found))


def _count_json(
    pieces: Iterable[NDArray[np.uint8]], most_lists: int, most_values: int
) -> tuple[int, int]:
    """Lists and objects, and all values; counting ends where either is too many."""
    lists = values = 0
    for piece in pieces:
        opened = _count(piece, _LIST) + _count(piece, _OBJECT)
        lists += opened
        values += opened + _count(piece, _COMMA)
        if lists > most_lists or values > most_values:
            break
    return lists, values


def _count(piece: NDArray[np.uint8], byte: int) -> int:
    return int(np.count_nonzero(piece == byte))


def _slices(text: Buffer) -> Iterator[NDArray[np.uint8]]:
    whole = np.frombuffer(text, np.uint8)
    for start in range(0, whole.size, SLICE_BYTES):
        yield whole[start : start + SLICE_BYTES]


def _without_strings(text: Buffer) -> Iterator[NDArray[np.uint8]]:
    """A document without what its strings say.

    In JSON that is broken, a reader comes to the fault before it comes to what is miscounted.
    """
    inside = 0
    held = b""
    for piece in _slices(text):
        read = held + piece.tobytes()
        odd = (len(read) - len(read.rstrip(b"\\"))) % 2  # what it escapes comes in the next slice
        held = b"\\" * odd
        kept = read[: len(read) - odd].replace(rb"\\", b"").replace(rb"\"", b"")
        found = np.frombuffer(kept, np.uint8)
        quoted = _parity(found, inside)
        yield found[quoted == 0]
        inside = int(quoted[-1]) if quoted.size else inside


def _without_quoted_cells(text: Buffer) -> Iterator[NDArray[np.uint8]]:
    """A table in CSV without what is quoted in it.

    A quote that begins a cell quotes it. One within a cell is a character like any other, and where
    the first such comes, all that follows is counted.
    """
    inside = 0
    before = _NEWLINE
    sound = True
    for piece in _slices(text):
        if not sound:
            yield piece
            continue
        quoted = _parity(piece, inside)
        previous = np.concatenate((np.array([before], np.uint8), piece[:-1]))
        opening = (piece == _QUOTE) & (quoted == 1)
        sound = bool(np.isin(previous[opening], (_COMMA, _NEWLINE, _RETURN, _QUOTE)).all())
        yield piece[quoted == 0] if sound else piece
        inside = int(quoted[-1])
        before = int(piece[-1])


def _parity(piece: NDArray[np.uint8], inside: int) -> NDArray[np.uint8]:
    """For each byte: 1 from an opening quote to before the closing one, else 0."""
    quotes = np.cumsum(piece == _QUOTE, dtype=np.uint8)
    return (quotes + np.uint8(inside)) & np.uint8(1)

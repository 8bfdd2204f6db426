"""Large lists in JSON, read piece by piece: pure and synchronous.

Theory: a reader makes objects of some 60 bytes of each value, before they become what a tensor
holds. So long lists are set aside, with marks where they stood; the rest of the document is read as
ever, and each list some elements at a time: cut at commas between its own elements, which are those
that lie in no string and in no list or object within. A document is read so or not at all: where
anything is odd, pieces or rest are no JSON, and the reader goes back to reading it whole. A list
within a string is odd too: setting it aside leaves no JSON, since a mark has quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import numpy as np
import orjson

PIECE_BYTES = 256 * 1024
"""Text that is read, or looked at, at a time."""

LISTS_MAX = 256
"""Most lists looked at, so that looking costs little whatever the document holds."""

_MARK: Final = "penstock-list"
_MARK_BYTES: Final = _MARK.encode()

_QUOTE, _COMMA, _OPENS, _CLOSES, _LOWER = b'",{} '
_LIST_CLOSES = ord("]")


class SetAside:
    """The text of a list, with its brackets."""

    def __init__(self, text: memoryview) -> None:
        self.text = text


A = TypeVar("A", bound=SetAside)


class LargeList(SetAside):
    """One of anything.

    Args:
        text: with its brackets.
        cuts: where commas between its elements are, about a piece apart.
    """

    def __init__(self, text: memoryview, cuts: list[int]) -> None:
        super().__init__(text)
        self._cuts = cuts

    def pieces(self) -> Iterator[list[Any]]:
        """Its elements, some at a time.

        Raises:
            ValueError: if it is no JSON.
        """
        start = 1
        for stop in (*self._cuts, self.text.nbytes - 1):
            elements = orjson.loads(b"".join((b"[", self.text[start:stop], b"]")))
            if not elements:
                raise ValueError  # two commas, or one at an end
            yield elements
            start = stop + 1


def large_list(text: bytes | bytearray, start: int, piece_bytes: int = PIECE_BYTES) -> LargeList:
    """The list that begins at `start`.

    Raises:
        ValueError: it has no end. Nor has what it is in, so that nothing else need be looked at.
    """
    depth = inside = 0
    offset, next_cut = start, start + piece_bytes
    cuts: list[int] = []
    while offset < len(text):
        piece = _without_escapes(bytes(memoryview(text)[offset : offset + PIECE_BYTES]))
        found = np.frombuffer(piece, np.uint8)
        quoted = (np.cumsum(found == _QUOTE, dtype=np.int32) + inside) & 1
        lowered = found | _LOWER  # brackets of lists become those of objects
        steps = (lowered == _OPENS).astype(np.int8) - (lowered == _CLOSES).astype(np.int8)
        steps[quoted == 1] = 0
        depths = np.cumsum(steps, dtype=np.int32) + depth
        ends = np.flatnonzero((depths == 0) & (steps == -1))
        end = int(ends[0]) if ends.size else found.size
        commas = np.flatnonzero((found[:end] == _COMMA) & (depths[:end] == 1) & (quoted[:end] == 0))
        while commas.size and offset + int(commas[-1]) >= next_cut:
            cut = offset + int(commas[np.searchsorted(commas, max(0, next_cut - offset))])
            cuts.append(cut - start)
            next_cut = cut + piece_bytes
        if ends.size:
            whole = memoryview(text)[start : offset + end + 1]
            if piece[end] != _LIST_CLOSES:
                raise ValueError("a list that ends as an object")
            return LargeList(whole, cuts)
        depth, inside = int(depths[-1]), int(quoted[-1])
        offset += found.size
    raise ValueError("a list without an end")


def _without_escapes(piece: bytes) -> bytes:
    """As long as it was, or one less where it ends within an escape."""
    if b"\\" not in piece:
        return piece
    plain = piece.replace(rb"\\", b"  ").replace(rb"\"", b"  ")
    return plain[:-1] if plain.endswith(b"\\") and len(plain) > 1 else plain


def document_without(
    text: bytes | bytearray,
    key: re.Pattern[bytes],
    taken: Callable[[bytes | bytearray, int], A | None],
) -> tuple[dict[str, Any], list[A]] | None:
    """A document whose large lists were set aside; None if it is to be read whole.

    Args:
        text: of the document.
        key: matches the name of a member and what follows up to a list's opening bracket.
        taken: the list that begins somewhere, or None where it stays; a ValueError: it has no end.

    Returns:
        The document, where `mark_of` tells which list stood there, and the lists.
    """
    lists: list[A] = []
    kept: list[bytes | memoryview] = []
    view = memoryview(text)
    end = 0
    for _ in range(LISTS_MAX):
        found = key.search(text, end)
        if found is None:
            break
        start, stop = found.end() - 1, found.end()
        try:
            cut = taken(text, start)
        except ValueError:
            return None
        if cut is None:
            kept.append(view[end:stop])
        else:
            kept += (view[end:start], b'{"%s":%d}' % (_MARK_BYTES, len(lists)))
            lists.append(cut)
            stop = start + cut.text.nbytes
        end = stop
    if not lists:
        return None
    rest = b"".join([*kept, view[end:]])
    if not _marks_are_ours(rest, len(lists)):
        return None
    try:
        document = orjson.loads(rest)
    except orjson.JSONDecodeError:
        return None
    return (document, lists) if type(document) is dict else None


def mark_of(value: Any) -> int | None:
    """Which of the lists stood here; None: none did."""
    mark = value.get(_MARK) if type(value) is dict else None
    return mark if type(mark) is int else None


def _marks_are_ours(rest: bytes, count: int) -> bool:
    """Whether a document without lists has no marks but those that were put there for them.

    A client's could be written as it is, or with escapes, which for ASCII begin with `\\u00`.
    """
    return rest.count(_MARK_BYTES) == count and rest.find(rb"\u00") < 0

"""msgpack that somebody else wrote, read at a cost in proportion to its bytes.

Theory: msgpack makes room for as many elements as an array claims, up to 1024 arrays deep: 5 kB of
nested claims had it make 40 MB, and 64 MiB would have it make 500 GB. And a value of one or two
bytes becomes an object of 80. What is short is read straight, since neither can matter there;
the rest is gone through first, value by value and without objects, and what it will take is added
up. Our own messages hold no maps and no extensions, and their arrays are few deep.
"""

from __future__ import annotations

from typing import Any

import msgpack

from penstock.shared.contracts.errors import WireError
from penstock.shared.wire.tensors import Buffer, nbytes_of

PLAIN_BYTES_MAX = 104 * 1024
"""What is read without a look: 8.5 MB, if each of its bytes were an empty map. A full envelope of
32 small pictures (784 FP32 each) is just below."""

PLAIN_ARRAY_MAX = 1024
"""Longest array that is read without a look: 8 MB, if 1024 of them are nested, which is as deep as
msgpack goes. Only envelopes with more messages, or models with more inputs, have a longer one."""

SPARE_BYTES = 16 * 1024 * 1024
"""What objects may take beyond what follows: enough for the 30,000 tensors of one message."""

BYTES_PER_BYTE = 3
"""What may be taken for each byte: itself, a copy, and as much again while one becomes another."""

BYTES_PER_NUMBER = 16
"""What may be taken beyond that for each number that is there. A header's texts are names."""

DEPTH_MAX = 8
"""Arrays in arrays: an envelope's go six deep, down to the sizes in a tensor's shape."""

_RECORD_DEPTH = 5
"""Arrays down to here may become a message or a tensor; deeper ones are shapes."""

_ARRAY_BYTES, _RECORD_BYTES, _SLOT_BYTES = 64, 80, 8
_NUMBER_BYTES, _BYTES_BYTES, _TEXT_BYTES, _CHARACTER_BYTES_MAX = 32, 48, 64, 4

_LENGTH_WIDTHS = {
    **{0xC4: 1, 0xC5: 2, 0xC6: 4},  # bytes
    **{0xD9: 1, 0xDA: 2, 0xDB: 4},  # text
    **{0xDC: 2, 0xDD: 4},  # arrays
}
_NUMBER_WIDTHS = {
    **{0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8},
    **{0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8},
}
_CONSTANTS = frozenset({0xC0, 0xC2, 0xC3})


def unpack(data: Buffer, parts: int = 1, *, use_list: bool = False) -> Any:
    """The value that the bytes hold.

    Args:
        data: bytes of msgpack.
        parts: messages that were put together into it, each with `SPARE_BYTES` of its own.
        use_list: arrays become lists, not tuples.

    Raises:
        WireError: if it would take too much, or is none of ours.
        ValueError, UnpackException: if it is no msgpack.
    """
    size = nbytes_of(data)
    if size <= PLAIN_BYTES_MAX:
        try:
            return msgpack.unpackb(data, use_list=use_list, max_array_len=PLAIN_ARRAY_MAX)
        except ValueError:
            if size <= PLAIN_ARRAY_MAX:
                raise
    _check(memoryview(data), size, parts)
    return msgpack.unpackb(data, use_list=use_list)


def _check(view: memoryview, size: int, parts: int) -> None:
    """Refuse what would take too much, before anything is made of it."""
    left = BYTES_PER_BYTE * size + parts * SPARE_BYTES
    waiting = [1]  # values that are still to come in each array that is open
    at = 0
    while waiting:
        if waiting[-1] == 0:
            waiting.pop()
            continue
        waiting[-1] -= 1
        if at >= size:
            raise WireError("msgpack that ends within a value")
        byte: int = view[at]
        at += 1
        if byte <= 0x7F or byte >= 0xE0 or byte in _CONSTANTS:
            continue
        if byte in _NUMBER_WIDTHS:
            at += _NUMBER_WIDTHS[byte]
            left -= _NUMBER_BYTES - BYTES_PER_NUMBER
        elif 0x90 <= byte <= 0x9F or byte in {0xDC, 0xDD}:
            length, at = _length(view, at, byte, 0x0F)
            if length > size - at or len(waiting) > DEPTH_MAX:
                raise WireError(f"an array of {length} values where there is no room for it")
            left -= _ARRAY_BYTES + _SLOT_BYTES * length
            left -= _RECORD_BYTES if len(waiting) <= _RECORD_DEPTH else 0
            waiting.append(length)
        elif byte in {0xC4, 0xC5, 0xC6}:
            length, at = _length(view, at, byte, 0)
            left -= _BYTES_BYTES + length
            at += length
        elif 0xA0 <= byte <= 0xBF or byte in _LENGTH_WIDTHS:
            length, at = _length(view, at, byte, 0x1F)
            left -= _TEXT_BYTES + _CHARACTER_BYTES_MAX * length
            at += length
        else:
            raise WireError(f"msgpack of kind {byte:#x}, which no message holds")
        if left < 0:
            raise WireError(f"{size} bytes that hold too many values")


def _length(view: memoryview, at: int, byte: int, mask: int) -> tuple[int, int]:
    """How long the value of this kind is, and where what follows begins."""
    width = _LENGTH_WIDTHS.get(byte)
    if width is None:
        return byte & mask, at
    return int.from_bytes(view[at : at + width], "big"), at + width

"""msgpack that is cheap to write and dear to read."""

from __future__ import annotations

import struct


def array(count: int, element: bytes) -> bytes:
    """An array with so many times the same element."""
    return b"\xdd" + struct.pack(">I", count) + element * count


def nested(count: int, depth: int = 1000) -> bytes:
    """Arrays in arrays, each of which claims so many elements, and may well have them."""
    heads = (b"\xdd" + struct.pack(">I", count)) * depth
    return heads + b"\xc0" * (count - len(heads))

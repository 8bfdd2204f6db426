"""Small grey images as PNG files."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY_8_BIT = bytes([8, 0, 0, 0, 0])
"""Bits of a sample, kind of colour, compression, filters, interlacing."""

NO_FILTER = 0


def grey_png(image: NDArray[Any], scale: int = 1) -> bytes:
    """A PNG file of an image, each pixel of it a square.

    Args:
        image: [rows, columns] of 0 (black) to 1 (white); what is beyond is taken for the nearest.
        scale: side of the square.

    Raises:
        ValueError: if it is no such image.
    """
    if image.ndim != 2 or not image.size or not np.isfinite(image).all():
        raise ValueError(f"expected an image of finite numbers, got shape {image.shape}")
    large = np.kron(image.clip(0, 1) * 255, np.ones((scale, scale))).round().astype(np.uint8)
    height, width = large.shape
    lines = np.insert(large, 0, NO_FILTER, axis=1)
    head = struct.pack(">II", width, height) + GREY_8_BIT
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes())), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

"""gzip and deflate, both ways, with bounded memory.

What comes in is inflated in pieces of at most `PIECE_BYTES`, so that whoever collects them can stop
at a limit: a few bytes that stand for gigabytes cost one piece more than the limit. HTTP's deflate
is zlib's format; some clients leave its frame away, which the first two bytes tell.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from penstock.gateway.http.tensors.bad_input import bad_input
from penstock.shared.wire.tensors import Buffer

Coding: TypeAlias = Literal["gzip", "deflate"]

PIECE_BYTES = 1024 * 1024
"""Most that is inflated or deflated in one go: some milliseconds."""

_CODINGS: dict[str, Coding] = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_FAST = 1
"""Level: JSON shrinks to about half with it, and to hardly less with any other."""


def coding_named(name: str) -> Coding | None:
    """The coding of a `Content-Encoding`, or None if it is none of ours."""
    return _CODINGS.get(name)


def chosen_coding(accept_encoding: str) -> Coding | None:
    """What an `Accept-Encoding` wants of an answer; None for an answer as it is."""
    weights = dict(_weighted(entry) for entry in accept_encoding.lower().split(","))
    others = weights.get("*", 0.0)
    gzip = weights.get("gzip", weights.get("x-gzip", others))
    deflate = weights.get("deflate", others)
    best = max(gzip, deflate)
    if best <= 0 or best < weights.get("identity", 0.0):
        return None
    return "gzip" if gzip >= deflate else "deflate"


def _weighted(entry: str) -> tuple[str, float]:
    name, _, parameters = entry.partition(";")
    weight = 1.0
    for parameter in parameters.split(";"):
        key, _, value = parameter.partition("=")
        if key.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
    return name.strip(), weight if 0.0 <= weight <= 1.0 else 0.0


class Inflater:
    """Undoes one coding of a body that comes in chunks."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._start = b""
        self._inflate: Any = zlib.decompressobj(_GZIP_WBITS) if coding == "gzip" else None

    def feed(self, data: Buffer) -> Iterator[bytes]:
        """What the next chunk stands for, in pieces.

        Raises:
            PenstockError: INVALID_INPUT, if the data is not of this coding.
        """
        if self._inflate is None:
            self._start += bytes(data)
            if len(self._start) < 2:
                return
            framed = self._start[0] & 0x0F == 8 and int.from_bytes(self._start[:2]) % 31 == 0
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS if framed else -zlib.MAX_WBITS)
            data, self._start = self._start, b""
        while data:
            if self._inflate.eof:
                self._next_member()
            try:
                piece = self._inflate.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise self._fault("something else") from None
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if piece:
                yield piece

    def finish(self) -> None:
        """The body has ended.

        Raises:
            PenstockError: INVALID_INPUT, if the coding says that there is more.
        """
        if self._inflate is None or not self._inflate.eof:
            raise self._fault("a part of it")

    def _next_member(self) -> None:
        """gzip data may consist of several; zlib data may not."""
        if self._coding != "gzip":
            raise self._fault("more bytes after its end")
        self._inflate = zlib.decompressobj(_GZIP_WBITS)

    def _fault(self, got: str) -> Exception:
        return bad_input(f"request body: expected {self._coding} data, got {got}")


def deflated(parts: tuple[Buffer, ...], coding: Coding) -> Iterator[bytes]:
    """A body in a coding, bit by bit; some of the bits are empty."""
    wbits = _GZIP_WBITS if coding == "gzip" else zlib.MAX_WBITS
    compressor = zlib.compressobj(_FAST, zlib.DEFLATED, wbits)
    for part in parts:
        view = memoryview(part).cast("B")
        for offset in range(0, view.nbytes, PIECE_BYTES):
            yield compressor.compress(view[offset : offset + PIECE_BYTES])
    yield compressor.flush()

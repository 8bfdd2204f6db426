"""One budget over all bytes that a gateway holds for clients.

Theory. Memory is taken at three stages of a request: while its body arrives, while its call (or the
submit of a job) is open, and while its answer has not been read. A bound on each stage alone leaves
the sum unbounded, and whoever fills one stage does harm to all. So there is one budget over all
three, and it is a hard limit: what does not fit is refused, and nothing is taken then.

A part of the budget is kept for what is small and quick. Large bodies and answers, and small bodies
that do not arrive within `SLOW_BODY_S`, count as *ordinary*, and may never hold that part; small
ones may hold all of the budget.

Invariants (tests/unit/gateway/memory/test_held_bytes.py): the sum over the kinds is at most
`bytes_max`; ordinary bytes are at most `bytes_max - small_share_bytes`; when all shares are
released, nothing is held, however often each was released.

Used by `penstock.gateway.dispatch.intake` (open calls), `penstock.gateway.http` (bodies) and
`penstock.gateway.http.server.connection` (answers).
"""

from __future__ import annotations

from typing import Final

from penstock.shared.contracts.errors import ErrorCode, PenstockError

ARRIVING: Final = 0
OPEN: Final = 1
UNREAD: Final = 2
KINDS: Final = ("arriving", "open", "unread")
"""Names of the kinds, in their order."""

SMALL_BYTES_MAX: Final = 64 * 1024
"""Largest body or answer that is small: most of JSON inference, and far below a picture."""

SLOW_BODY_S: Final = 1.0
"""A small body that takes longer to arrive loses its claim on the share of small ones."""

BYTES_MAX: Final = 2 * 1024 * 1024 * 1024
"""Default of the budget: twice what open calls may hold."""

SMALL_SHARE_BYTES: Final = 64 * 1024 * 1024
"""Default of the part for small ones: a thousand of the largest of them."""

RETRY_AFTER_S: Final = 1.0
"""What is full is mostly full for as long as calls take, or slow clients are waited for."""


class HeldBytes:
    """The budget.

    Args:
        bytes_max: most bytes held at once, all kinds together.
        small_share_bytes: of them, what only small and quick ones may hold.

    Attributes:
        by_kind: bytes held now, of each kind.
        total: their sum.
    """

    __slots__ = ("_ordinary", "_ordinary_max", "by_kind", "bytes_max", "total")

    def __init__(
        self, bytes_max: int = BYTES_MAX, small_share_bytes: int = SMALL_SHARE_BYTES
    ) -> None:
        self.bytes_max = bytes_max
        self.by_kind = [0] * len(KINDS)
        self.total = 0
        self._ordinary = 0
        self._ordinary_max = bytes_max - min(small_share_bytes, bytes_max // 2)

    def __repr__(self) -> str:
        return f"<HeldBytes {self.total} of {self.bytes_max}, {self._ordinary} ordinary>"

    @property
    def ordinary(self) -> int:
        """Bytes held by what is large or slow."""
        return self._ordinary

    def has_room(self, size_bytes: int, ordinary: bool) -> bool:
        """Whether so many bytes more may be held."""
        if self.total + size_bytes > self.bytes_max:
            return False
        return not ordinary or self._ordinary + size_bytes <= self._ordinary_max

    def take(self, kind: int, size_bytes: int, ordinary: bool) -> None:
        """Hold so many bytes more, until they are given back with the same arguments.

        Raises:
            PenstockError: QUEUE_FULL; nothing was taken then.
        """
        if not self.has_room(size_bytes, ordinary):
            raise self.refusal()
        self.add(kind, size_bytes, ordinary)

    def add(self, kind: int, size_bytes: int, ordinary: bool) -> None:
        """Hold so many bytes more, for which `has_room` just now said that there is room."""
        self.by_kind[kind] += size_bytes
        self.total += size_bytes
        if ordinary:
            self._ordinary += size_bytes

    def give_back(self, kind: int, size_bytes: int, ordinary: bool) -> None:
        """They are held no more."""
        self.by_kind[kind] -= size_bytes
        self.total -= size_bytes
        if ordinary:
            self._ordinary -= size_bytes

    def refusal(self) -> PenstockError:
        """What is told to those for whom there is no room."""
        message = f"the gateway holds as many bytes as it may ({self.bytes_max}): try again later"
        return PenstockError(ErrorCode.QUEUE_FULL, message, RETRY_AFTER_S)


class HeldShare:
    """Bytes that one thing holds of the budget; may grow and shrink until it is released.

    Attributes:
        size_bytes: held now.
    """

    __slots__ = ("_held", "_kind", "_ordinary", "size_bytes")

    def __init__(self, held: HeldBytes, kind: int) -> None:
        self._held = held
        self._kind = kind
        self._ordinary = False
        self.size_bytes = 0

    def __repr__(self) -> str:
        return f"<HeldShare {self.size_bytes} {KINDS[self._kind]}>"

    def resize(self, size_bytes: int) -> None:
        """Hold so many bytes from now on; what was once ordinary stays so until it holds nothing.

        Raises:
            PenstockError: QUEUE_FULL; what was held before is held still.
        """
        if size_bytes > SMALL_BYTES_MAX and not self._ordinary:
            self.become_ordinary()
        if size_bytes > self.size_bytes:
            self._held.take(self._kind, size_bytes - self.size_bytes, self._ordinary)
        else:
            self._held.give_back(self._kind, self.size_bytes - size_bytes, self._ordinary)
        self.size_bytes = size_bytes
        if not size_bytes:
            self._ordinary = False

    def become_ordinary(self) -> None:
        """Leave the part that is for small ones.

        Raises:
            PenstockError: QUEUE_FULL; what was held before is held still.
        """
        held, kind, size = self._held, self._kind, self.size_bytes
        if self._ordinary:
            return
        held.give_back(kind, size, False)
        try:
            held.take(kind, size, True)
        except PenstockError:
            held.take(kind, size, False)
            raise
        self._ordinary = True

    def shrink(self, size_bytes: int) -> None:
        """Hold no more than so many bytes from now on."""
        if size_bytes < self.size_bytes:
            self.resize(size_bytes)

    def is_open(self) -> None:
        """What it holds belongs to an open call from now on."""
        self._held.give_back(self._kind, self.size_bytes, self._ordinary)
        self._kind = OPEN
        self._held.take(self._kind, self.size_bytes, self._ordinary)

    def release(self) -> None:
        """Hold nothing; a second time changes nothing."""
        self._held.give_back(self._kind, self.size_bytes, self._ordinary)
        self.size_bytes, self._ordinary = 0, False

"""A bound on the bytes that some kind of request holds at once in this gateway."""

from __future__ import annotations

from penstock.gateway.memory.held_bytes import OPEN, SMALL_BYTES_MAX, HeldBytes
from penstock.shared.contracts.errors import ErrorCode, PenstockError


class ByteBudget:
    """Bytes that may be held; one request alone may hold more, or it could never be answered.

    Args:
        bytes_max: held at once.
        refusal: what is told to those for whom there is no room.
        retry_after_s: when they may come again.
        held: what the gateway holds, these bytes among it; None: they count here only.
        kind: what they are there.
    """

    def __init__(
        self,
        bytes_max: int,
        refusal: str,
        retry_after_s: float,
        held: HeldBytes | None = None,
        kind: int = OPEN,
    ) -> None:
        self._held = HeldBytes() if held is None else held
        self._kind = kind
        self._bytes_max = bytes_max
        self._refusal = refusal
        self._retry_after_s = retry_after_s
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes that are held now."""
        return self._held_bytes

    def take(self, size_bytes: int) -> ByteShare:
        """Hold so many bytes, until the share is released.

        Raises:
            PenstockError: QUEUE_FULL.
        """
        if self._held_bytes and self._held_bytes + size_bytes > self._bytes_max:
            raise PenstockError(ErrorCode.QUEUE_FULL, self._refusal, self._retry_after_s)
        ordinary = size_bytes > SMALL_BYTES_MAX
        self._held.take(self._kind, size_bytes, ordinary)
        self._held_bytes += size_bytes
        return ByteShare(self, size_bytes, ordinary)

    def nothing(self) -> ByteShare:
        """A share of no bytes."""
        return ByteShare(self, 0, ordinary=False)

    def give_back(self, size_bytes: int, ordinary: bool) -> None:
        """For shares: they are held no more."""
        self._held_bytes -= size_bytes
        self._held.give_back(self._kind, size_bytes, ordinary)


class ByteShare:
    """Bytes of a budget that are held."""

    def __init__(self, budget: ByteBudget, size_bytes: int, ordinary: bool) -> None:
        self._budget = budget
        self._ordinary = ordinary
        self._size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """No more than so many are held from now on."""
        surplus = max(0, self._size_bytes - size_bytes)
        self._budget.give_back(surplus, self._ordinary)
        self._size_bytes -= surplus

    def release(self) -> None:
        """They are held no more; a second time changes nothing."""
        self._budget.give_back(self._size_bytes, self._ordinary)
        self._size_bytes = 0

"""The budget over all bytes that a gateway holds, whatever takes and releases them when."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from penstock.gateway.memory.held_bytes import (
    ARRIVING,
    KINDS,
    OPEN,
    SMALL_BYTES_MAX,
    UNREAD,
    HeldBytes,
    HeldShare,
)
from penstock.shared.contracts.errors import ErrorCode, PenstockError

BYTES_MAX = 10 * SMALL_BYTES_MAX
SMALL_SHARE = 4 * SMALL_BYTES_MAX
SIZES = st.integers(0, SMALL_BYTES_MAX) | st.integers(0, BYTES_MAX + 1)
PLACES = st.integers(0, 7)


class Holding(RuleBasedStateMachine):
    """Eight shares that grow, shrink, become slow or open and are released, also twice."""

    def __init__(self) -> None:
        super().__init__()
        self.held = HeldBytes(BYTES_MAX, SMALL_SHARE)
        self.shares = [HeldShare(self.held, place % len(KINDS)) for place in range(8)]
        self.sizes = [0] * 8

    @rule(place=PLACES, size=SIZES)
    def resize(self, place: int, size: int) -> None:
        try:
            self.shares[place].resize(size)
        except PenstockError as error:
            self.check_refusal(error, size > self.sizes[place])
        else:
            self.sizes[place] = size

    @rule(place=PLACES, size=SIZES)
    def shrink(self, place: int, size: int) -> None:
        self.shares[place].shrink(size)
        self.sizes[place] = min(self.sizes[place], size)

    @rule(place=PLACES)
    def slow(self, place: int) -> None:
        try:
            self.shares[place].become_ordinary()
        except PenstockError as error:
            self.check_refusal(error, self.sizes[place] > 0)

    @rule(place=PLACES)
    def open(self, place: int) -> None:
        self.shares[place].is_open()

    @rule(place=PLACES)
    def release(self, place: int) -> None:
        self.shares[place].release()
        self.sizes[place] = 0

    def check_refusal(self, error: PenstockError, for_a_reason: bool) -> None:
        assert error.code is ErrorCode.QUEUE_FULL
        assert error.retry_after_s
        assert for_a_reason

    @invariant()
    def within_bounds(self) -> None:
        held = self.held
        assert held.total == sum(held.by_kind) == sum(self.sizes) <= BYTES_MAX
        assert min(held.by_kind) >= 0
        assert 0 <= held.ordinary <= BYTES_MAX - SMALL_SHARE
        assert sum(size for size in self.sizes if size > SMALL_BYTES_MAX) <= held.ordinary

    def teardown(self) -> None:
        for share in self.shares:
            share.release()
            share.release()
        assert (self.held.total, self.held.ordinary, self.held.by_kind) == (0, 0, [0, 0, 0])


TestHolding = Holding.TestCase


def test_large_ones_leave_the_share_of_small_ones() -> None:
    held = HeldBytes(BYTES_MAX, SMALL_SHARE)
    HeldShare(held, ARRIVING).resize(BYTES_MAX - SMALL_SHARE)
    with pytest.raises(PenstockError, match="as many bytes as it may"):
        HeldShare(held, UNREAD).resize(SMALL_BYTES_MAX + 1)
    for _ in range(4):
        HeldShare(held, OPEN).resize(SMALL_BYTES_MAX)
    with pytest.raises(PenstockError):
        HeldShare(held, OPEN).resize(1)


def test_a_slow_one_leaves_the_share_of_small_ones_or_is_refused() -> None:
    held = HeldBytes(BYTES_MAX, SMALL_SHARE)
    HeldShare(held, OPEN).resize(BYTES_MAX - SMALL_SHARE - 10)
    first, second = HeldShare(held, ARRIVING), HeldShare(held, ARRIVING)
    first.resize(10)
    second.resize(10)
    first.become_ordinary()
    with pytest.raises(PenstockError):
        second.become_ordinary()
    second.release()
    assert held.total == BYTES_MAX - SMALL_SHARE

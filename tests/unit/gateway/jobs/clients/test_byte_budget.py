"""A bound on bytes held at once."""

from __future__ import annotations

import pytest

from penstock.gateway.jobs.clients.byte_budget import ByteBudget
from penstock.gateway.memory.held_bytes import UNREAD, HeldBytes
from penstock.shared.contracts.errors import ErrorCode, PenstockError


def test_shares_are_bounded_together() -> None:
    budget = ByteBudget(10, "too much", 2.0)
    first, second = budget.take(4), budget.take(6)
    with pytest.raises(PenstockError, match="too much") as raised:
        budget.take(1)
    assert (raised.value.code, raised.value.retry_after_s) == (ErrorCode.QUEUE_FULL, 2.0)
    for _ in range(2):
        first.release()
    budget.take(4)
    with pytest.raises(PenstockError):
        budget.take(1)
    second.release()
    budget.take(6)


def test_one_alone_may_be_larger() -> None:
    budget = ByteBudget(10, "too much", 2.0)
    share = budget.take(100)
    with pytest.raises(PenstockError):
        budget.take(1)
    share.release()
    budget.take(100)


def test_a_share_may_shrink() -> None:
    budget = ByteBudget(10, "too much", 2.0)
    share = budget.take(10)
    share.shrink(12)
    with pytest.raises(PenstockError):
        budget.take(1)
    share.shrink(4)
    budget.take(6)
    with pytest.raises(PenstockError):
        budget.take(1)
    share.release()
    budget.take(4)


def test_shares_count_in_what_the_gateway_holds() -> None:
    held = HeldBytes(1000, 0)
    budget = ByteBudget(5000, "too much", 2.0, held, UNREAD)
    share = budget.take(800)
    assert held.by_kind == [0, 0, 800]
    with pytest.raises(PenstockError, match="the gateway holds as many bytes"):
        budget.take(201)
    assert budget.held_bytes == 800
    share.shrink(100)
    assert held.total == 100
    share.release()
    share.release()
    assert (held.total, budget.held_bytes) == (0, 0)

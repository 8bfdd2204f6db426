"""What configurations are worth."""

from __future__ import annotations

import pytest

from penstock.shared.jobs.durability import Durability, durability_of


@pytest.mark.parametrize(
    ("appendonly", "appendfsync", "can_wait", "expected"),
    [
        ("yes", "always", False, Durability.ALWAYS),
        ("yes", "always", True, Durability.ALWAYS),
        ("yes", "everysec", True, Durability.ASKED),
        ("yes", "everysec", False, Durability.EVERYSEC),
        ("yes", "no", True, Durability.NONE),
        ("no", "always", False, Durability.NONE),
    ],
)
def test_what_a_configuration_is_worth(
    appendonly: str, appendfsync: str, can_wait: bool, expected: Durability
) -> None:
    told = {"appendonly": appendonly, "appendfsync": appendfsync}
    assert durability_of(told, can_wait) is expected


def test_what_is_not_told_may_still_be_asked_for() -> None:
    assert durability_of(None, can_wait=True) is Durability.ASKED
    assert durability_of(None, can_wait=False) is Durability.UNKNOWN

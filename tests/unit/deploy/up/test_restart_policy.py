"""When children are started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.deploy.local.up.restart_policy import RestartPolicy

POLICY = RestartPolicy(first_s=0.5, ceiling_s=10.0, stable_after_s=30.0)


def test_first_end_after_a_long_life_restarts_soon() -> None:
    assert POLICY.short_lives(5, lived_s=31.0) == 0
    assert POLICY.delay_s(0) == 0.5


def test_short_lives_double_the_delay_up_to_the_ceiling() -> None:
    assert [POLICY.delay_s(n) for n in (1, 2, 3, 4, 5, 6, 1000)] == [0.5, 1, 2, 4, 8, 10, 10]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_delay_stays_in_bounds_and_never_shrinks_while_lives_are_short(lives: list[float]) -> None:
    short, last = 0, 0.0
    for lived_s in lives:
        short = POLICY.short_lives(short, lived_s)
        delay = POLICY.delay_s(short)
        assert POLICY.first_s <= delay <= POLICY.ceiling_s
        assert delay >= last or lived_s >= POLICY.stable_after_s
        last = delay

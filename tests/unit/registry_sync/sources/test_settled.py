"""Values count once they rest, and the last that did counts until the next one does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.registry_sync.sources.settled import Settled

SETTLE_S = 2.0


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 2)), max_size=30))
def test_what_counts_is_the_last_value_that_was_seen_unchanged(
    steps: list[tuple[float, int]],
) -> None:
    settled: Settled[str, int] = Settled(SETTLE_S)
    now, since, current, counts = 0.0, 0.0, None, None
    for waited_s, value in steps:
        now += waited_s
        if value != current:
            current, since = value, now
        if now - since >= SETTLE_S:
            counts = value
        assert settled.see("k", value, now) == counts
        assert settled.last("k") == counts


def test_what_is_known_to_be_old_counts_at_once() -> None:
    settled: Settled[str, str] = Settled(SETTLE_S)
    assert settled.see("k", "new", 0.0, age_s=SETTLE_S / 2) is None
    assert settled.see("k", "old", 0.0, age_s=SETTLE_S) == "old"


def test_what_is_not_kept_is_forgotten() -> None:
    settled: Settled[str, str] = Settled(0.0)
    settled.see("a", "1", 0.0)
    settled.see("b", "1", 0.0)
    settled.keep({"a"})
    assert (settled.last("a"), settled.last("b")) == ("1", None)

"""Which batches the loop runs itself."""

from __future__ import annotations

import pytest

from penstock.worker.session.latency_model import TYPICAL_AFTER, Estimates
from penstock.worker.session.short_runs import SHORT_S, SLOW_PENALTY, SLOW_S, ShortRuns

ROWS = 4


def estimates(seconds: float, count: int = 32) -> Estimates:
    known = Estimates()
    for _ in range(count):
        known.add(ROWS, seconds)
    return known


def test_what_is_surely_short_runs_in_the_loop() -> None:
    assert ShortRuns().allow(estimates(SHORT_S / 2), ROWS)


@pytest.mark.parametrize(
    ("known", "rows"),
    [
        (estimates(SHORT_S * 2), ROWS),
        (estimates(SHORT_S / 2, count=TYPICAL_AFTER - 1), ROWS),
        (estimates(SHORT_S / 2), ROWS * 2),
        (Estimates(), ROWS),
    ],
    ids=["long", "seen too seldom", "another size", "unknown"],
)
def test_what_is_not_surely_short_does_not(known: Estimates, rows: int) -> None:
    assert not ShortRuns().allow(known, rows)


def test_one_long_wait_for_the_interpreter_does_not_make_a_model_long() -> None:
    known = estimates(SHORT_S / 2)
    known.add(ROWS, 1.0)
    assert ShortRuns().allow(known, ROWS)


def test_after_a_slow_run_in_the_loop_the_thread_runs_the_next_ones() -> None:
    short_runs, known = ShortRuns(), estimates(SHORT_S / 2)
    short_runs.ran(SLOW_S)
    assert short_runs.allow(known, ROWS)
    short_runs.ran(SLOW_S * 2)
    assert not any(short_runs.allow(known, ROWS) for _ in range(SLOW_PENALTY))
    assert short_runs.allow(known, ROWS)

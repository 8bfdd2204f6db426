"""How fast jobs are leased: within bounds, slowly while the loop waits for a processor."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from penstock.worker.jobs.pace import LOOK_S, PACE_S, PACE_S_MAX, WAITED_MAX, Pace
from penstock.worker.jobs.processor_waits import ProcessorWaits

SHARES = st.floats(0.0, 1.0)
STEP_S = 2 * LOOK_S


def paces(
    shares: list[float], pace: Pace, start_s: float = 0.0, step_s: float = STEP_S
) -> list[float]:
    """What a pace is while the loop waits for these shares of its time, from a start on."""
    found, waited_s = [], start_s / 2
    for count, share in enumerate(shares, 1):
        waited_s += share * step_s
        found.append(pace.next(start_s + count * step_s, waited_s))
    return found


@given(st.lists(SHARES), st.floats(LOOK_S / 4, 1.0))
def test_it_stays_within_its_bounds_and_changes_by_steps(
    shares: list[float], step_s: float
) -> None:
    found = [PACE_S, *paces(shares, Pace(), step_s=step_s)]
    assert all(PACE_S <= each <= PACE_S_MAX for each in found)
    assert all(0.5 * one <= other <= 2 * one for one, other in pairwise(found))


@given(st.lists(SHARES))
def test_full_processors_make_it_slow_and_room_makes_it_fast(before: list[float]) -> None:
    pace, count = Pace(), len(before)
    paces(before, pace)
    assert paces([2 * WAITED_MAX] * 8, pace, start_s=count + 1.0)[-1] == PACE_S_MAX
    assert paces([0.0] * 8, pace, start_s=count + 3.0)[-1] == PACE_S


def test_linux_tells_how_long_a_thread_has_waited() -> None:
    waits = ProcessorWaits()
    before_s = waits.seconds()
    sum(range(10**6))
    assert waits.seconds() >= before_s > 0.0

"""When a job port is taken for dead, and when another is started."""

from __future__ import annotations

from math import inf

from penstock.worker.jobs.port_watch import (
    LOOK_S,
    RESTART_S,
    RESTART_S_MAX,
    START_S_MAX,
    STEADY_S,
    PortWatch,
)


def looked(watch: PortWatch, seconds: float, began: float, step: float = LOOK_S) -> float:
    """Look again and again for so long; when the port had to be ended, or infinity."""
    now = began
    while now < began + seconds:
        now += step
        if watch.must_end(now):
            return now - began
    return inf


def test_a_port_that_is_silent_for_too_long_must_end() -> None:
    watch = PortWatch(15.0)
    watch.began(100.0)
    watch.heard()
    assert 15.0 < looked(watch, 60.0, 100.0) <= 15.0 + LOOK_S


def test_a_port_that_starts_may_take_longer_and_not_for_ever() -> None:
    watch = PortWatch(15.0)
    watch.began(0.0)
    assert START_S_MAX < looked(watch, 90.0, 0.0) <= START_S_MAX + LOOK_S


def test_a_port_that_speaks_now_and_then_may_go_on() -> None:
    watch = PortWatch(15.0)
    watch.began(0.0)
    for turn in range(10):
        watch.heard()
        assert looked(watch, 14.0, 14.0 * turn) == inf


def test_a_loop_that_was_held_up_blames_nobody() -> None:
    watch = PortWatch(15.0)
    watch.began(0.0)
    watch.heard()
    assert not watch.must_end(3600.0)
    assert looked(watch, 10.0, 3600.0) == inf


def test_looks_that_come_often_make_silence_no_longer() -> None:
    watch = PortWatch(15.0)
    watch.began(0.0)
    watch.heard()
    assert looked(watch, 60.0, 0.0, step=0.01) > 15.0


def test_a_port_that_dies_again_and_again_is_replaced_ever_later() -> None:
    watch, now, waits = PortWatch(15.0), 0.0, []
    for _ in range(12):
        watch.began(now)
        assert not watch.must_start(now)
        watch.died(now)
        assert not watch.must_start(now)
        assert not watch.must_end(now + 1e6)
        waits.append(watch.next_look() - now)
        now = watch.next_look()
        assert watch.must_start(now)
    assert waits[0] == RESTART_S
    assert waits == sorted(waits)
    assert waits[-1] == RESTART_S_MAX
    watch.began(now)
    watch.died(now + STEADY_S)
    assert watch.next_look() == now + STEADY_S + RESTART_S

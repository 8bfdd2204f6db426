"""An outage is said once, again if it lasts, and once that it is over."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from penstock.shared.process.clock import FakeClock
from penstock.shared.process.outage import Outage
from penstock.shared.process.telemetry import get_logger


def outage(clock: FakeClock, **options: float) -> Outage:
    return Outage(get_logger("t"), "away", "back", monotonic=clock.monotonic, **options)


def test_it_is_said_once_that_it_begins_and_once_that_it_is_over() -> None:
    clock = FakeClock()
    with capture_logs() as lines:
        store = outage(clock)
        store.worked()
        for _ in range(3):
            store.failed(reason="no route")
            assert store.lasts
            clock.advance(20)
        assert store.for_s == 60
        store.worked(held=2)
        store.worked(held=2)
        assert (store.lasts, store.for_s) == (False, 0)
        store.failed(reason="another")
    assert lines == [
        {"component": "t", "log_level": "warning", "event": "away", "reason": "no route"},
        {"component": "t", "log_level": "info", "event": "back", "held": 2, "after_s": 60},
        {"component": "t", "log_level": "warning", "event": "away", "reason": "another"},
    ]


@pytest.mark.parametrize(("again_s", "told"), [(60.0, 2), (30.0, 4)])
def test_one_that_lasts_is_said_again(again_s: float, told: int) -> None:
    clock = FakeClock()
    with capture_logs() as lines:
        store = outage(clock, again_s=again_s)
        for _ in range(10):
            store.failed("away, and nothing is known")
            clock.advance(10)
    assert [each["event"] for each in lines] == ["away, and nothing is known"] * told

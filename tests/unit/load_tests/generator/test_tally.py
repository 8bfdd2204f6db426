"""What becomes of requests while a load runs, and its way between processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from load_tests.generator import tally
from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.generator.tally import Tally, TooManyAnswersError


def three_requests() -> Outcomes:
    """Begun at 100 s: one answered, one refused, one left open; the second was late by 3 ms."""
    kept = Tally(requests=2)
    first = kept.begin(100.0, 100.0)
    second = kept.begin(100.5, 100.503)
    kept.begin(101.0, 101.0)
    kept.end(first, "ok", 100.25)
    kept.keep(first, {"inference-header-content-length": "7", "date": "now"}, b"body")
    kept.end(second, "status 503", 100.7)
    return kept.close(100.0, 2.0, 104.0)


def test_latency_runs_from_the_intended_time() -> None:
    outcomes = three_requests()
    assert outcomes.latency_ms[1] == pytest.approx(200)
    assert outcomes.lag_s.tolist() == pytest.approx([0, 0.003, 0])
    assert outcomes.latency().max_ms == pytest.approx(250), "of answered ones"


def test_failures_are_counted_by_kind() -> None:
    outcomes = three_requests()
    assert outcomes.answered == 1
    assert outcomes.errors() == {"status 503": 1, "unanswered": 1}
    assert outcomes.goodput_rps == pytest.approx(0.5)


def test_a_request_ends_once() -> None:
    kept = Tally(requests=1)
    ticket = kept.begin(0.0, 0.0)
    kept.end(ticket, "ok", 1.0)
    with pytest.raises(AssertionError):
        kept.end(ticket, "ok", 1.0)


def test_a_late_generator_makes_a_run_void() -> None:
    kept = Tally(requests=1)
    for number in range(100):
        kept.end(kept.begin(number, number + 0.006), "ok", number + 0.01)
    assert "6.0 ms late" in kept.close(0.0, 100.0, 100.0).void
    assert not three_requests().void
    assert Tally(requests=1).close(0.0, 1.0, 1.0).void == "nothing was sent"


def test_equal_answers_to_a_request_are_kept_once() -> None:
    kept = Tally(requests=2)
    for body in (b"a", b"b", b"a", b"c"):  # to the requests 0, 1, 0, 1
        ticket = kept.begin(0.0, 0.0)
        kept.end(ticket, "ok", 1.0)
        kept.keep(ticket, {}, body)
    outcomes = kept.close(0.0, 1.0, 1.0)
    assert [(each.request, each.body) for each in outcomes.answers] == [
        *((0, b"a"), (1, b"b"), (1, b"c"))
    ]
    assert outcomes.answer.tolist() == [0, 1, 0, 2]


def test_more_answers_than_can_be_kept_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "KEPT_BYTES_MAX", 10)
    kept = Tally(requests=1)
    for number in range(3):
        ticket = kept.begin(0.0, 0.0)
        kept.end(ticket, "ok", 1.0)
        kept.keep(ticket, {}, b"%d" % number * 6)
    with pytest.raises(TooManyAnswersError):
        kept.close(0.0, 1.0, 1.0)


def test_outcomes_and_plans_survive_their_way(tmp_path: Path) -> None:
    outcomes, path = three_requests(), tmp_path / "file"
    outcomes.write(path)
    again = Outcomes.read(path)
    assert np.array_equal(again.latency_ms, outcomes.latency_ms)
    assert (again.errors(), again.answers) == (outcomes.errors(), outcomes.answers)
    plan = LoadPlan(port=1, requests=[b"\xff", b""], duration_s=2.0, rate_rps=3.0)
    plan.write(path)
    assert LoadPlan.read(path) == plan

"""What is let in is counted, ordered by class, and expected to be in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.dispatch.policies.admission import Admission, AdmissionSettings, Ticket

SETTINGS = AdmissionSettings()
PRIORITIES = st.integers(1, 9)
TIMEOUTS = st.floats(0.01, 100.0)
CALLS = st.tuples(st.integers(1, 32), PRIORITIES, TIMEOUTS)


def knowing(base_s: float, row_s: float, batch_rows_max: int = 8, replicas: int = 1) -> Admission:
    """One that has seen batches of several sizes, as expected."""
    admission = Admission(SETTINGS)
    admission.replicas_told(replicas, 0, batch_rows_max)
    for rows in [1, 2, 4, 8] * 20:
        ticket = admission.admit(1, 5, 60.0, 0.0)
        assert ticket is not None
        seconds = base_s + row_s * rows
        admission.answered(ticket, seconds, rows, seconds)
    return admission


def crowd(admission: Admission, calls: list[tuple[int, int, float]]) -> list[Ticket]:
    tickets = [admission.admit(rows, priority, span, 0.0) for rows, priority, span in calls]
    return [ticket for ticket in tickets if ticket is not None]


def crowded(foreign_rows: int, calls: list[tuple[int, int, float]]) -> Admission:
    """One with two replicas, that these calls have come to."""
    admission = knowing(0.02, 0.002)
    admission.replicas_told(2, foreign_rows, 8)
    crowd(admission, calls)
    return admission


@given(
    st.lists(CALLS, max_size=60),
    st.lists(st.sampled_from(["answered", "expired", "closed"]), min_size=60, max_size=60),
    st.floats(0, 10),
    st.integers(0, 3),
    st.integers(0, 500),
)
def test_rows_are_counted_once_each(
    calls: list[tuple[int, int, float]],
    ends: list[str],
    took_s: float,
    replicas: int,
    foreign_rows: int,
) -> None:
    admission = knowing(0.01, 0.001)
    admission.replicas_told(replicas, foreign_rows, 8)
    open_rows = 0
    tickets = crowd(admission, calls)
    assert admission.open_rows == sum(ticket.rows for ticket in tickets)
    for ticket, end in zip(tickets, ends, strict=False):
        open_rows = admission.open_rows
        if end == "answered":
            admission.answered(ticket, took_s, 8, took_s / 2)
        elif end == "expired":
            admission.expired(ticket, took_s)
        else:
            admission.closed(ticket)
        assert admission.open_rows == open_rows - ticket.rows
        assert SETTINGS.bias_min <= admission.bias <= SETTINGS.bias_max
    assert admission.open_rows == 0
    assert admission.admit(1, 9, 0.001, 1.0) is not None, "a model that is idle was locked out"


@given(
    st.lists(CALLS, max_size=60),
    CALLS,
    st.integers(0, 300),
    st.floats(0, SETTINGS.aging_s, exclude_max=True),
)
def test_what_is_let_in_of_a_class_is_let_in_of_each_higher_one(
    calls: list[tuple[int, int, float]],
    call: tuple[int, int, float],
    foreign_rows: int,
    now: float,
) -> None:
    """Before any class has aged: the crowd came at 0."""
    rows, _, timeout_s = call
    let_in = [
        crowded(foreign_rows, calls).admit(rows, priority, timeout_s, now) is not None
        for priority in range(1, 10)
    ]
    assert let_in == sorted(let_in, reverse=True)


def test_a_class_that_has_aged_gets_one_call_in_before_a_higher_one_that_has_not() -> None:
    calls = [(1, 1, 1.0), (1, 1, 1.0), (1, 6, 1.0)]  # class 6 is shut out at 0
    before, after = SETTINGS.aging_s * 0.99, SETTINGS.aging_s
    assert crowded(187, calls).admit(1, 6, 1.0, before) is None
    assert crowded(187, calls).admit(1, 5, 1.0, after) is None
    admission = crowded(187, calls)
    ticket = admission.admit(1, 6, 1.0, after)
    assert ticket is not None
    assert ticket.priority == 1
    assert admission.admit(1, 6, 1.0, after) is None


@given(st.lists(CALLS, max_size=100), st.integers(0, 300))
def test_nothing_is_let_in_that_is_expected_to_be_late(
    calls: list[tuple[int, int, float]], foreign_rows: int
) -> None:
    admission = knowing(0.02, 0.002)
    admission.replicas_told(2, foreign_rows, 8)
    for rows, priority, timeout_s in calls:
        alone = admission.open_rows == 0
        ticket = admission.admit(rows, priority, timeout_s, 0.0)
        if ticket is not None and not alone:
            expected_s = 0.02 * ticket.batches + 0.002 * ticket.rows_in_all
            assert expected_s <= 0.9 * timeout_s * 1.2


def test_what_is_in_front_is_taken_by_the_line() -> None:
    admission = knowing(0.02, 0.001)
    admission.replicas_told(2, 640, 8)
    expected_s = (0.02 * 41 + 0.001 * 321) * admission.bias
    assert admission.retry_after_s(5, 1.0) == pytest.approx(expected_s, rel=0.01)


def test_one_size_of_batches_says_that_others_cost_the_same() -> None:
    admission = Admission(SETTINGS)
    admission.replicas_told(1, 0, 32)
    for _ in range(20):
        ticket = admission.admit(1, 5, 0.5, 0.0)
        assert ticket is not None
        admission.answered(ticket, 0.02, 1, 0.02)
    burst = [admission.admit(1, 5, 0.5, 0.0) for _ in range(200)]
    assert None not in burst


def test_bias_follows_what_the_line_does_not_see() -> None:
    admission = knowing(0.02, 0.0)
    for n in range(100):
        ticket = admission.admit(1, 5, 60.0, 0.0)
        assert ticket is not None
        admission.answered(ticket, 0.06, 1, 0.02 + n * 1e-9)
    assert admission.bias == pytest.approx(3.0, rel=0.01)


def test_a_model_that_answers_nothing_in_time_gets_its_calls_one_after_the_other() -> None:
    admission = Admission(SETTINGS)
    admission.replicas_told(1, 0, 8)
    first, second = (admission.admit(1, 5, 0.5, 0.0) for _ in range(2))
    assert first is not None
    assert second is not None
    admission.expired(first, 0.5)
    assert admission.admit(1, 5, 0.5, 0.5) is None
    admission.expired(second, 0.5)
    assert admission.admit(1, 5, 0.5, 0.5) is not None


def test_rows_of_lower_classes_and_longer_timeouts_are_not_in_front() -> None:
    admission = knowing(0.02, 0.0)
    crowd(admission, [(8, 5, 60.0)] * 30)
    assert admission.admit(1, 5, 0.2, 0.0) is not None
    assert admission.admit(1, 4, 60.0, 0.0) is not None
    assert admission.admit(1, 6, 0.2, 0.0) is None


def test_a_class_that_is_shut_out_gets_a_call_in_when_it_has_aged() -> None:
    admission = knowing(0.02, 0.0)
    while admission.admit(1, 5, 0.5, 0.0) is not None:
        pass
    let_in = [admission.admit(1, 9, 0.5, n / 10) for n in range(25)]
    aged = [ticket for ticket in let_in if ticket is not None]
    assert [n for n, ticket in enumerate(let_in) if ticket is not None] == [10, 21]
    assert all(ticket.priority == 1 for ticket in aged)


def test_a_wait_is_advised_that_grows_with_the_backlog() -> None:
    admission = knowing(0.02, 0.0)
    advised = []
    for foreign_rows in (8, 80, 800, 8_000_000):
        admission.replicas_told(1, foreign_rows, 8)
        advised.append(admission.retry_after_s(5, 0.5))
    assert advised == sorted(advised)
    assert advised[0] > 0
    assert advised[-1] == SETTINGS.retry_after_s_max


def test_a_large_request_is_expected_to_take_what_its_rows_take_on_all_replicas() -> None:
    admission = knowing(0.0, 0.001)
    assert admission.admit_large(100_000, 5, 60.0), "a model that is idle was locked out"
    assert not admission.admit_large(100, 5, 60.0), "100 s of rows are in front of it"
    admission.large_sent(100_000)
    assert admission.admit_large(10_000, 5, 60.0)
    assert not admission.admit_large(10_000, 5, 60.0)
    admission.replicas_told(4, 0, 8)
    assert admission.admit_large(10_000, 5, 60.0)
    admission.large_sent(20_000)
    assert admission.large_rows == 0


def test_rows_of_a_large_request_that_wait_are_in_front_of_no_small_call() -> None:
    admission = knowing(0.0, 0.001)
    assert admission.admit_large(1_000_000, 5, 3600.0)
    piece = admission.admit(8, 5, 3600.0, 0.0, in_any_case=True)
    assert piece is not None
    admission.large_sent(8)
    assert admission.admit(1, 5, 0.1, 0.0) is not None


def test_a_piece_is_let_in_whatever_is_in_front_of_it() -> None:
    admission = knowing(0.1, 0.1)
    crowd(admission, [(8, 5, 60.0)] * 50)
    assert admission.admit(8, 5, 0.5, 0.0) is None
    assert admission.admit(8, 5, 0.5, 0.0, in_any_case=True) is not None

"""What follows an attempt."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from penstock.gateway.webhooks.retries import Delivered, GaveUp, Retry, RetrySchedule
from penstock.gateway.webhooks.settings import HOUR, WebhookSettings

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

schedules = st.builds(
    RetrySchedule,
    delays_s=st.lists(st.floats(0.1, 1e6), max_size=12).map(tuple),
    jitter=st.floats(0, 1),
    retry_after_s_max=st.floats(0, 1e6),
)
chances = st.floats(0, 1, exclude_max=True)
failures = st.integers(100, 599).filter(lambda code: not 200 <= code < 300 and code != 410)
waits = st.one_of(st.none(), st.integers(0, 10**12).map(str), st.text(max_size=20))


@given(schedules, st.data())
def test_attempts_are_as_many_as_the_schedule_has_and_in_its_bounds(
    schedule: RetrySchedule, data: st.DataObject
) -> None:
    attempt = 1
    for delay_s in schedule.delays_s:
        status, asked = data.draw(failures), data.draw(waits)
        outcome = schedule.after_answer(status, asked, attempt, data.draw(chances))
        assert isinstance(outcome, Retry)
        most_s = max(delay_s, schedule.retry_after_s_max) * (1 + schedule.jitter)
        assert delay_s <= outcome.after_s <= most_s
        assert outcome.attempt == attempt + 1
        attempt = outcome.attempt
    assert isinstance(schedule.after_answer(500, None, attempt, 0.5), GaveUp)
    assert isinstance(schedule.after_failure("silence", attempt, 0.5), GaveUp)


@given(schedules, st.integers(200, 299), st.integers(1, 20), waits, chances)
def test_success_and_gone_are_final_at_any_attempt(
    schedule: RetrySchedule, status: int, attempt: int, asked: str | None, chance: float
) -> None:
    assert schedule.after_answer(status, asked, attempt, chance) == Delivered(status)
    assert isinstance(schedule.after_answer(410, asked, attempt, chance), GaveUp)


@given(schedules, chances, chances)
def test_more_chance_is_no_less_delay(schedule: RetrySchedule, one: float, other: float) -> None:
    first = schedule.after_failure("silence", 1, min(one, other))
    second = schedule.after_failure("silence", 1, max(one, other))
    if isinstance(first, Retry) and isinstance(second, Retry):
        assert first.after_s <= second.after_s


@pytest.mark.parametrize(
    ("asked", "after_s"),
    [
        ("60", 60.0),
        ("1", 5.0),
        ("999999", 900.0),
        ("-1", 5.0),
        ("1.5", 5.0),
        ("٣٠", 5.0),
        ("", 5.0),
    ],
)
def test_a_receiver_may_ask_for_more_time(asked: str, after_s: float) -> None:
    schedule = RetrySchedule((5.0,), 0.0, 900.0)
    outcome = schedule.after_answer(429, asked, 1, 0.0)
    assert outcome == Retry(after_s, 2, "answered 429")


def test_the_default_is_what_the_scheme_suggests() -> None:
    settings = WebhookSettings.model_validate({"secrets": [SECRET]})
    assert settings.retry_delays_s[:4] == (5.0, 300.0, 1800.0, 7200.0)
    assert 70 * HOUR < sum(settings.retry_delays_s) < 80 * HOUR
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("delays_s", [[0], [-1], [5, 1e9], [1] * 33, [float("nan")]])
def test_a_schedule_is_bounded(delays_s: list[float]) -> None:
    with pytest.raises(ValidationError):
        WebhookSettings.model_validate({"secrets": [SECRET], "retry_delays_s": delays_s})


def test_networks_are_read() -> None:
    settings = WebhookSettings.model_validate(
        {"secrets": [SECRET], "allow_networks": ["10.0.0.0/8", "::1/128"]}
    )
    assert settings.allow_networks == (ip_network("10.0.0.0/8"), ip_network("::1/128"))

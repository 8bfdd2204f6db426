"""Extra attempts stay within tokens and budget, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.dispatch.policies.throttle import (
    RetryThrottle,
    ThrottleSettings,
    backoff_s_max,
)

SETTINGS = ThrottleSettings()

EVENTS = st.lists(
    st.sampled_from(["answered", "nacked", "hedge", "ended"]), min_size=1, max_size=400
)
SOME_SETTINGS = st.builds(
    ThrottleSettings,
    tokens_max=st.floats(2, 200),
    refund=st.floats(0, 1),
    active_share=st.floats(0, 1),
    extra_min=st.integers(0, 5),
)


@given(SOME_SETTINGS, EVENTS, st.integers(0, 200))
def test_extra_attempts_stay_within_tokens_and_budget(
    settings: ThrottleSettings, events: list[str], open_calls: int
) -> None:
    throttle = RetryThrottle(settings)
    made = in_flight = answers = 0
    budget = max(settings.active_share * open_calls, settings.extra_min)
    for event in events:
        if event == "answered":
            throttle.answered()
            answers += 1
        elif event == "ended":
            if in_flight:
                throttle.ended()
                in_flight -= 1
        else:
            if event == "nacked":
                throttle.failed()
            if throttle.allows(open_calls):
                if event == "hedge":
                    throttle.hedged()
                else:
                    throttle.retried()
                made += 1
                in_flight += 1
        assert 0 <= throttle.tokens <= settings.tokens_max
        assert throttle.extra == in_flight <= budget
    assert made <= settings.tokens_max / 2 + settings.refund * answers + 1


def test_where_half_of_the_replicas_refuse_calls_soon_get_one_attempt_each() -> None:
    throttle = RetryThrottle(SETTINGS)
    attempts = 0
    for call in range(1000):
        attempts += 1
        refused = call % 2 == 0
        while refused:
            throttle.failed()
            if not throttle.allows(open_calls=10):
                break
            throttle.retried()
            attempts += 1
            refused = attempts % 2 == 0
            throttle.ended()
        if not refused:
            throttle.answered()
    assert attempts <= 1.06 * 1000


def test_a_single_replica_that_refuses_now_and_then_is_always_retried() -> None:
    throttle = RetryThrottle(SETTINGS)
    for call in range(10_000):
        if call % 12 == 0:
            throttle.failed()
            assert throttle.allows(open_calls=10)
            throttle.retried()
            throttle.ended()
        throttle.answered()


def test_few_open_calls_still_have_a_few_extra_attempts() -> None:
    throttle = RetryThrottle(SETTINGS)
    for _ in range(3):
        assert throttle.allows(open_calls=1)
        throttle.retried()
    assert not throttle.allows(open_calls=1)
    assert throttle.allows(open_calls=20)


def test_an_end_without_a_beginning_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no extra attempt"):
        RetryThrottle(SETTINGS).ended()


@given(st.integers(1, 1000), st.floats(0.001, 1), st.floats(1, 60))
def test_backoff_grows_up_to_its_bound(retry: int, initial_s: float, most_s: float) -> None:
    wait_s = backoff_s_max(retry, initial_s, most_s)
    assert initial_s <= wait_s <= most_s or wait_s == most_s
    assert wait_s <= backoff_s_max(retry + 1, initial_s, most_s)
    assert backoff_s_max(1, initial_s, most_s) == initial_s

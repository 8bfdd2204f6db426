"""The header `server-timing`."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.gateway.http.server_timing import in_ms, server_timing
from penstock.gateway.inference.types import InferenceAnswer

ANSWER = InferenceAnswer("m", "1", (), 0.0005, 0.01234567, 1)


@given(st.floats(0.0, 1e6))
def test_milliseconds_are_right_to_the_microsecond(seconds: float) -> None:
    text = in_ms(seconds)
    assert len(text.partition(".")[2]) == 3
    assert float(text) == pytest.approx(seconds * 1e3, abs=0.000501, rel=1e-12)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.000"),
        (0.0000004, "0.000"),
        (0.0009996, "1.000"),
        (0.9999994, "999.999"),
        (0.9999996, "1000.000"),
        (12.5, "12500.000"),
        (-0.000001, "-0.001"),
        (math.inf, "inf"),
    ],
)
def test_milliseconds(seconds: float, text: str) -> None:
    assert in_ms(seconds) == text


def test_one_attempt() -> None:
    assert server_timing(ANSWER, 0.02) == "queue;dur=0.500, infer;dur=12.346, total;dur=20.000"


def test_what_went_before_the_attempt_that_was_answered() -> None:
    answer = InferenceAnswer("m", "1", (), 0.5, 0.01, 2, before_s=0.25)
    assert server_timing(answer, 0.3).endswith("total;dur=300.000, before;dur=250.000")

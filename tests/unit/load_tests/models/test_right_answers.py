"""How far off an answer may be."""

from __future__ import annotations

import numpy as np
import pytest

from load_tests.models.right_answers import RightAnswers
from load_tests.server import Rows, ServerError


def row(*numbers: float) -> Rows:
    return np.array([numbers], np.float32)


RIGHT = RightAnswers([row(1, -10), row(5, 5)], tolerance=0.01)


def test_an_answer_may_be_off_by_a_share_of_the_largest_element() -> None:
    RIGHT.check(0, row(1.09, -10))
    RIGHT.check(1, row(5.04, 4.96))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (row(1.11, -10), "off by"),
        (row(5, 5), "off by"),
        (row(float("nan"), -10), "off by nan"),
        (row(1, -10, 0), "of shape"),
    ],
)
def test_a_wrong_answer_is_an_error(answer: Rows, told: str) -> None:
    with pytest.raises(ServerError, match=told):
        RIGHT.check(0, answer)


def test_inputs_whose_answers_are_alike_prove_nothing() -> None:
    RIGHT.demand_distinct()
    alike = RightAnswers([row(1, -10), row(1.1, -10)], tolerance=0.01)
    with pytest.raises(ServerError, match="too close"):
        alike.demand_distinct()

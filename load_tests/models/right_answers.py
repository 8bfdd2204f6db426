"""Right answers to known inputs, and how far off an answer may be; pure.

On a GPU, and in bf16, the same row comes out a little different in batches of different sizes:
the library chooses other kernels, and sums up in another order. So inputs must be so different
that a mix-up is off by much more than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from load_tests.server import Rows, ServerError

DISTINCT = 3.0
"""Answers to two different inputs are to be so many tolerances apart, or more."""


@dataclass(frozen=True)
class RightAnswers:
    """Of one version of a model.

    Attributes:
        answers: by number of the input.
        tolerance: largest difference, as a share of the right answer's largest element.
    """

    answers: Sequence[Rows]
    tolerance: float

    def check(self, index: int, answer: Rows) -> None:
        """Compare an answer with the right one.

        Raises:
            ServerError: if it is another.
        """
        right = self.answers[index]
        if answer.shape != right.shape:
            raise ServerError(f"an answer of shape {answer.shape} instead of {right.shape}")
        off = distance(answer, right)
        if not off <= self.tolerance:  # nor if it is not a number
            raise ServerError(f"a wrong answer: off by {off:.3g} of the largest element")

    def demand_distinct(self) -> None:
        """Make sure that mixing answers up would be seen.

        Raises:
            ServerError: if it might not.
        """
        pairs = itertools.permutations(self.answers, 2)
        nearest = min(distance(one, other) for one, other in pairs)
        if not nearest >= DISTINCT * self.tolerance:
            raise ServerError(
                f"two right answers are {nearest:.3g} apart: too close for a tolerance of "
                f"{self.tolerance:g}"
            )


def distance(answer: Rows, right: Rows) -> float:
    """The largest difference, as a share of the right answer's largest element."""
    return float(np.abs(answer - right).max() / np.abs(right).max())

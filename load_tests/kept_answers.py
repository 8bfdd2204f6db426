"""Verifies the answers that a load generator kept: every one that came, after the load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load_tests import oip
from load_tests.load_plan import Outcomes
from load_tests.reference import Reference
from load_tests.server import Rows

VersionOfAnswer = Sequence[str]


def check_answers(
    outcomes: Outcomes, inputs: Sequence[Rows], references: Sequence[Mapping[str, Reference]]
) -> VersionOfAnswer:
    """Compare each different answer with what the version that it names should have said.

    Args:
        inputs, references: for each of the plan's requests; the latter by version.

    Returns:
        the version of each kept answer.

    Raises:
        ServerError: at a wrong one.
    """
    versions = []
    for kept in outcomes.answers:
        version = oip.version_of(kept.headers, kept.body)
        answer = oip.infer_answer(kept.headers, kept.body)
        references[kept.request][version].check(inputs[kept.request], answer)
        versions.append(version)
    return versions

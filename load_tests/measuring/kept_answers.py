"""Verifies the answers that a load generator kept: every one that came, after the load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from load_tests.generator.load_plan import Outcomes
from load_tests.models.reference import Reference
from load_tests.server import Rows
from load_tests.servers import oip

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

    def check(request: int, version: str, answer: Rows) -> None:
        references[request][version].check(inputs[request], answer)

    return check_kept(outcomes, check)


def check_kept(outcomes: Outcomes, check: Callable[[int, str, Rows], None]) -> VersionOfAnswer:
    """The same with anything that knows what is right.

    Args:
        check: gets the number of a request, the version that answered, and the answer; raises
            ServerError if that is wrong.
    """
    versions = []
    for kept in outcomes.answers:
        version = oip.version_of(kept.headers, kept.body)
        check(kept.request, version, oip.infer_answer(kept.headers, kept.body))
        versions.append(version)
    return versions

"""The scripts' texts: what they know of the record is what the record says."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.jobs.record import TRANSITIONS, JobState
from penstock.shared.jobs.scripts import script

FOLDER = resources.files("penstock.shared.jobs") / "lua"
NAMES = sorted(entry.name.removesuffix(".lua") for entry in FOLDER.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_scripts_know_only_states_and_codes_that_there_are(name: str) -> None:
    text = script(name).text
    assert set(re.findall(r"state ==? '(\w+)'", text)) <= set(JobState)
    assert set(re.findall(r"enter\(job, '(\w+)'", text)) <= set(JobState)
    codes = re.findall(r"(?:error_code = |end_attempt\(job, )'(\w+)'", text)
    assert set(codes) <= set(ErrorCode)


def test_scripts_have_the_one_table_of_transitions() -> None:
    head = script("cancel").text.partition("\n")[0]
    for state, following in TRANSITIONS.items():
        told = re.search(rf"\b{state} = {{([^}}]*)}}", head)
        assert told is not None
        assert set(re.findall(r"(\w+) = true", told[1])) == set(following)

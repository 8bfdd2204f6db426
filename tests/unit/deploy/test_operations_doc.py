"""docs/operations.md promises nothing of mishaps and broken versions that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SECTIONS = {
    "## When something happens to the registry": 18,
    "## A version does not serve, or serves badly: from symptom to cause": 6,
}
"""With the fewest rows that each has."""


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_row_names_tests_that_exist(heading: str) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition(heading + "\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= SECTIONS[heading]
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        says = row.rstrip(" |").rpartition("|")[2]
        names = re.findall(r"`(test_\w+)`", says)
        assert names or re.match(r" the (first|last|same)", says), row
        for name in names:
            assert f"def {name}(" in sources, name

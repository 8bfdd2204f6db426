"""docs/operations.md promises nothing about mishaps of a registry that no test holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SECTION = "## When something happens to the registry"


def test_every_row_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition(SECTION)[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for row in rows:
        says = row.rstrip(" |").rpartition("|")[2]
        names = re.findall(r"`(test_\w+)`", says)
        assert names or re.match(r" the (first|same)", says), row
        for name in names:
            assert f"def {name}(" in sources, name

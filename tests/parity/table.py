"""The table of models in docs/models.md: `python -m tests.parity.table FOLDER` writes it.

A run of the tests leaves what it found in the folder, a file for each model (`make models-table`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- made by make models-table -->", "<!-- end of what is made -->"

FORMS = {
    "dataframe_split": "split",
    "dataframe_records": "records",
    "inputs": "inputs",
    "instances": "instances",
    "csv": "CSV",
    "parquet": "Parquet",
    "messages": "messages",
    "prompt": "prompt",
    "input": "input",
}
"""Words with which names of bodies begin, and what the table calls them."""

WAYS = {"rest": "tensors", "rows": "tensors, worded by replicas", "all": "bodies", "": "tensors"}
"""How most bodies go, by `ModelInterface.scoring`."""

REASON_CHARS_MAX = 90


@dataclass(frozen=True)
class Noted:
    """What was found of a model."""

    model: str
    forms: tuple[str, ...]
    asked: int
    differences: dict[str, int]
    scoring: str
    max_batch_size: int
    reason: str


def write(folder: Path, noted: Noted) -> None:
    """Leave what was found of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{noted.model}.json").write_text(json.dumps(asdict(noted)))


def table(found: Sequence[Noted]) -> str:
    """Markdown."""
    lines = [
        f"{len(found)} models, {sum(each.asked for each in found)} bodies.",
        "",
        "| model | forms | bodies | the same | go as | requests share executions |",
        "|---|---|---|---|---|---|",
    ]
    for each in sorted(found, key=lambda noted: noted.model):
        differing = sum(each.differences.values())
        same = "all" if not differing else f"all but {differing} ({', '.join(each.differences)})"
        forms = ", ".join(FORMS[form] for form in each.forms)
        batched = f"up to {each.max_batch_size} rows" if each.max_batch_size > 1 else "no"
        why = each.reason.removeprefix("not batched: ").partition(";")[0].replace("|", "/")
        if batched == "no" and why:
            batched = f"no: {why[:REASON_CHARS_MAX]}"
        way = WAYS[each.scoring]
        lines.append(f"| {each.model} | {forms} | {each.asked} | {same} | {way} | {batched} |")
    return "\n".join(lines)


def main(folder: Path) -> None:
    """Put the table into the page."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    found = [Noted(**{**each, "forms": tuple(each["forms"])}) for each in documents]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

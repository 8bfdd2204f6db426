"""Writes a run down: JSON for programs, Markdown for people, and plots."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from load_tests.report.plots import draw
from load_tests.report.results import Report
from load_tests.report.tables import render_report


def write_report(report: Report, out: Path, name: str) -> list[Path]:
    """Write `name`.json, .md and plots; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    document = out / f"{name}.json"
    document.write_text(json.dumps(_plain(dataclasses.asdict(report)), indent=1) + "\n")
    plots = [path for result in report.scenarios for path in draw(result, out, name)]
    text = render_report(report)
    if plots:
        text += "\n" + "\n".join(f"![{path.stem}]({path.name})" for path in plots) + "\n"
    page = out / f"{name}.md"
    page.write_text(text)
    return [page, document, *plots]


def _plain(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value

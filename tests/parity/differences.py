"""Where our answer may differ from that of MLflow's scoring server: each with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

LOOSE = 1e-4
"""By which floats may differ, relative to the largest of their list: single precision, batched."""


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    content: bytes

    @property
    def document(self) -> Any:
        """Its JSON; numbers that are not finite are None, for MLflow writes NaN, which is none."""
        try:
            return json.loads(self.content, parse_constant=lambda _: None)
        except ValueError:
            return None

    @property
    def error_code(self) -> str:
        found = self.document
        return str(found.get("error_code", "")) if isinstance(found, dict) else ""


REASONS = {
    "raises": "a model that raises is 500 INTERNAL_ERROR, not 400: alerts and rollouts count 5xx",
    "crashed": "what MLflow's server answers with 500 of its own is refused with a reason",
    "better": "what MLflow's server refuses we may answer",
}


def difference(theirs: Answer, ours: Answer, volatile: Collection[str] = ()) -> str:
    """What is wrong with our answer; empty if nothing is, or a name of `REASONS`."""
    if theirs.status == 200:
        if ours.status != 200:
            return f"{ours.status} {ours.content[:300]!r}, MLflow answers {theirs.content[:200]!r}"
        return unlike(theirs.document, ours.document, volatile)
    if ours.status == 200:
        return "better"
    if theirs.status == 500 and 400 <= ours.status < 600:
        return "crashed"
    if theirs.error_code == "BAD_REQUEST" and b"unexpected error" in theirs.content:
        same = (ours.status, ours.error_code) == (500, "INTERNAL_ERROR")
        return "raises" if same else f"{ours.status} {ours.content[:300]!r} for what raises"
    if (theirs.status // 100, theirs.error_code) != (ours.status // 100, ours.error_code):
        said = (ours.status, ours.content[:300]), (theirs.status, theirs.content[:300])
        return f"{said[0]}, MLflow: {said[1]}"
    return ""


def unlike(theirs: Any, ours: Any, volatile: Collection[str] = (), where: str = "$") -> str:
    """Where two documents differ first; empty if they do not."""
    if type(theirs) is not type(ours):
        return f"{where} is {_shown(ours)}, MLflow's is {_shown(theirs)}"
    if isinstance(theirs, dict):
        names, others = set(theirs) - set(volatile), set(ours) - set(volatile)
        if names != others:
            return f"{where} has {sorted(others)}, MLflow's {sorted(names)}"
        found = (unlike(theirs[n], ours[n], volatile, f"{where}.{n}") for n in theirs if n in names)
        return next(filter(None, found), "")
    if isinstance(theirs, list):
        if len(theirs) != len(ours):
            return f"{where} has {len(ours)} items, MLflow's {len(theirs)}"
        if all(type(each) is float for each in (*theirs, *ours)):
            return _unlike_floats(theirs, ours, where)
        found = (
            unlike(a, b, volatile, f"{where}[{n}]")
            for n, (a, b) in enumerate(zip(theirs, ours, strict=True))
        )
        return next(filter(None, found), "")
    if isinstance(theirs, float):
        return _unlike_floats([theirs], [ours], where)
    return "" if theirs == ours else f"{where} is {_shown(ours)}, MLflow's is {_shown(theirs)}"


def _unlike_floats(theirs: list[float], ours: list[float], where: str) -> str:
    most = max((abs(each) for each in theirs), default=0.0)
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        if not math.isclose(a, b, rel_tol=LOOSE, abs_tol=LOOSE * most):
            return f"{where}[{number}] is {b}, MLflow's is {a}"
    return ""


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:120]}"

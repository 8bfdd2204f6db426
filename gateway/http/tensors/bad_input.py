"""How the faults of a request are put to its sender: what was expected, what came, never more.

A value from the request is shown abbreviated, so that an answer's length is bounded whatever was
sent, and nothing of Python or of a library shows through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import orjson

from penstock.shared.contracts.errors import ErrorCode, PenstockError

TEXT_MAX = 60
"""Most characters of a value of the request in a message: enough to recognise it by."""

NAMES_MAX = 8
"""Most names listed in a message."""


class NotJson(float):
    """A literal such as NaN that some writers put into JSON although JSON has none."""


def bad_input(message: str) -> PenstockError:
    """The error for a request that does not fit what it is sent to."""
    return PenstockError(ErrorCode.INVALID_INPUT, message)


def mismatch(what: str, expected: str, got: str) -> PenstockError:
    """The error for one thing in a request: `what` names it, the rest says why it does not fit."""
    return bad_input(f"{what}: expected {expected}, got {got}")


def shown(value: Any) -> str:
    """A JSON value as it appears in messages, at most some `TEXT_MAX` characters long."""
    if isinstance(value, list):
        return f"a list of {len(value)} element{'' if len(value) == 1 else 's'}"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        if isinstance(value, NotJson):
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        return "a number beyond the range of FP64"
    return orjson.dumps(value).decode()


def quoted(text: str) -> str:
    """A string of the request in quotes, escaped as in JSON and cut short."""
    cut = text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + "..."
    return orjson.dumps(cut.encode("utf-8", "replace").decode()).decode()


def shown_shape(shape: Iterable[int]) -> str:
    """A shape as in `[-1,64]`, cut short."""
    text = ",".join(map(str, list(shape)[: NAMES_MAX * 2]))
    return f"[{text[: TEXT_MAX * 2]}]"


def shown_names(names: Iterable[str]) -> str:
    """Names in quotes with commas between, the first few only."""
    listed = list(names)
    rest = len(listed) - NAMES_MAX
    text = ", ".join(map(quoted, listed[:NAMES_MAX]))
    return f"{text} and {rest} more" if rest > 0 else text


def path_of(indices: Iterable[int]) -> str:
    """Where in a tensor's data an element is: `data[0][3]`."""
    return "data" + "".join(f"[{index}]" for index in indices)

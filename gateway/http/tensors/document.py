"""The JSON of a request to Python values; what is no JSON is refused, and said why.

orjson is strict: it refuses NaN, Infinity and numbers beyond a double. A tensor with such a number
is a common mistake that deserves a message that names the tensor, so a small document that orjson
refused is read once more by the standard library's lenient reader.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from penstock.gateway.http.tensors.bad_input import (
    NotJson,
    bad_input,
    mismatch,
    path_of,
    quoted,
    shown,
)
from penstock.gateway.http.tensors.json_tensors import first_non_finite
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.wire.tensors import Buffer

EXPLAINED_BYTES_MAX = 1024 * 1024
"""Largest document read again for a better message: a few milliseconds, so that refusing a request
never costs much more than accepting it."""

NESTING_MAX = 1024
"""Deepest nesting that orjson reads; it has no setting for it."""


def load_document(text: Buffer) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _explain(text, error) from None
    if type(document) is not dict:
        raise mismatch("request", "a JSON object", shown(document))
    return document


def _explain(text: Buffer, error: orjson.JSONDecodeError) -> PenstockError:
    if len(text) == 0:
        return bad_input("request: expected a JSON object, got an empty body")
    if "depth limit" in error.msg or "ecursion limit" in error.msg:  # newer and older versions
        return bad_input(f"request: expected JSON nested at most {NESTING_MAX} deep, got deeper")
    if len(text) <= EXPLAINED_BYTES_MAX:
        better = _non_finite_number(text)
        if better is not None:
            return better
    return bad_input(
        f"request: expected JSON, got a fault at line {error.lineno}, column {error.colno}"
    )


def _non_finite_number(text: Buffer) -> PenstockError | None:
    """The error that names the tensor with a non-finite number, if that is what is wrong."""
    try:
        document = json.loads(str(text, "utf-8"), parse_constant=NotJson)
    except (ValueError, RecursionError):
        return None
    tensors = document.get("inputs") if isinstance(document, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        if not isinstance(tensor, dict):
            continue
        found = first_non_finite(tensor.get("data"))
        if found is not None:
            value, at = found
            name = tensor.get("name")
            what = f"input {quoted(name)}" if isinstance(name, str) else "input"
            expected = "finite numbers (JSON has no others; send the tensor as binary data)"
            return mismatch(what, expected, f"{shown(value)} at {path_of(at)}")
    return None

"""Documents that clients send again and again, with other numbers in them: pure.

Theory: take the list of numbers that follows the first `"data":` out of a document. What is left
tells all else that there is to say of the request, and a client sends the same again and again. So
once a document was read and found to fit the model, what it said is remembered under the bytes
that are left. A document with the same bytes around another list differs in that one value, since
JSON is free of context, and only the list is read.

That the list is a value (and not a part of a string, or a key that comes again later) is found out
by reading the document with a mark in the list's place.

Previous stop of a request: `gateway.http.call_route`. Next: back there, or else
`gateway.http.oip_codec` for a document that is not known.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import orjson

from gateway.http.json_tensors import NUMBERS
from gateway.http.large_arrays import flat_numbers
from gateway.http.parsed_infer import ParsedInfer
from shared.records import record
from shared.tensors import Tensor

Text: TypeAlias = bytes | bytearray

TEMPLATES_MAX = 256
"""Documents remembered for a model's version."""

TEMPLATE_BYTES_MAX = 2048
"""Longest document remembered, without its list: all of them take half a megabyte at most."""

_DATA = b'"data":'
_DATA_BYTES = len(_DATA)
_MARK = {"\u0001penstock-list": 0}
_MARK_IN_JSON = orjson.dumps(_MARK)


@record
class _Template:
    """A document without its list.

    Attributes:
        count: elements in the list.
        said: what else it says.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    count: int
    said: ParsedInfer


class Templates:
    """Documents that fit one version of a model."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Template] = {}

    def __len__(self) -> int:
        return len(self._known)

    def read(self, text: Text) -> ParsedInfer | None:
        """What a document says; None if it is to be read as a whole."""
        start, end = _list_in(text)
        template = self._known.get(_around(text, start, end))
        if template is None:
            return None
        data = flat_numbers(template.datatype, template.count, bytes(text[start:end]))
        if data is None:
            return None
        said = template.said
        return ParsedInfer(
            None,
            (Tensor(template.name, template.datatype, template.shape, data),),
            said.outputs,
            said.binary_outputs,
            said.binary_default,
            said.parameters,
            said.priority,
            said.timeout_s,
        )

    def learn(self, text: Text, parsed: ParsedInfer) -> None:
        """A document was read as a whole: remember it if it is simple enough.

        With an id it would not come again; with one tensor there is one list.
        """
        start, end = _list_in(text)
        around = _around(text, start, end)
        if not around or len(around) > TEMPLATE_BYTES_MAX:
            return
        if parsed.id is not None or len(parsed.inputs) != 1:
            return
        (tensor,) = parsed.inputs
        count = math.prod(tensor.shape)
        if tensor.datatype not in NUMBERS or not _is_value(text, start, end):
            return
        if flat_numbers(tensor.datatype, count, bytes(text[start:end])) != tensor.data:
            return
        if len(self._known) >= TEMPLATES_MAX:
            del self._known[next(iter(self._known))]
        self._known[around] = _Template(tensor.name, tensor.datatype, tensor.shape, count, parsed)


def _list_in(text: Text) -> tuple[int, int]:
    """Where the first list of data begins and ends; 0 and 0 if there is none.

    Of a list in a list, such as the one row of a tensor with two dimensions, it is the inner one.
    """
    start = text.find(_DATA)
    if start < 0:
        return 0, 0
    start += _DATA_BYTES
    opening = text[start : start + 3].lstrip(b" ")
    if opening.startswith(b"[["):
        start += 1
    start += 3 - len(opening)
    end = text.find(b"]", start) + 1
    return (start, end) if end and opening.startswith(b"[") else (0, 0)


def _around(text: Text, start: int, end: int) -> bytes:
    """What is left of a document; empty if it holds no list.

    The list's place is that of the first `"data":` here, too, so that equal bytes mean one place.
    """
    return bytes(text[:start]) + bytes(text[end:]) if end else b""


def _is_value(text: Text, start: int, end: int) -> bool:
    """Whether the list is the data of the one input, or the one row of it."""
    try:
        document: Any = orjson.loads(b"".join((text[:start], _MARK_IN_JSON, text[end:])))
        entries = document["inputs"]
        return len(entries) == 1 and entries[0]["data"] in (_MARK, [_MARK])
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return False

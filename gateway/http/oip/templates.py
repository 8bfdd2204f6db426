"""Documents that clients send again and again, with other numbers in them: pure.

Theory: take the list of numbers that follows the first `"data":` out of a document. What is left
tells all else that there is to say of the request, and a client sends the same again and again. So
once a document was read and found to fit the model, what it said is remembered under the bytes
that are left. A document with the same bytes around another list differs in that one value, since
JSON is free of context, and only the list is read.

That the list is a value (and not a part of a string, or a key that comes again later) is found out
by reading the document with a mark in the list's place.

With binary data it is simpler still: the JSON in front of it is the same to the last byte.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final, TypeAlias

import orjson

from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.tensors.json_tensors import NUMBERS
from penstock.gateway.http.tensors.large_arrays import flat_numbers
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer, Tensor

Text: TypeAlias = bytes | bytearray

TEMPLATES_MAX = 256
"""Documents of a kind (with or without binary data) remembered for a model's version."""

TEMPLATE_BYTES_MAX: Final = 2048
"""Longest document remembered, without its list: all of them take half a megabyte at most."""

LIST_BYTES_MAX: Final = 256 * 1024
"""Longest list that is read by a template: of longer ones, reading the rest is not what takes time,
and they are read in pieces instead of being copied (see
`penstock.gateway.http.tensors.large_arrays`)."""

_DATA = b'"data":'
_DATA_BYTES = len(_DATA)
_MARK = {"\u0001penstock-list": 0}
_MARK_IN_JSON = orjson.dumps(_MARK)


@record
class _Template:
    """A document without its data.

    Attributes:
        size: of the data: elements in a list, or bytes of binary data.
        said: what else it says; without inputs.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int
    said: ParsedInfer

    def filled(self, data: Buffer) -> ParsedInfer:
        """What a document says with this data."""
        said = self.said
        return ParsedInfer(
            id=None,
            inputs=(Tensor(self.name, self.datatype, self.shape, data),),
            outputs=said.outputs,
            binary_outputs=said.binary_outputs,
            binary_default=said.binary_default,
            parameters=said.parameters,
            priority=said.priority,
            timeout_s=said.timeout_s,
        )


class Templates:
    """Documents that fit one version of a model."""

    def __init__(self) -> None:
        self._around_list: dict[bytes, _Template] = {}
        self._before_binary: dict[bytes, _Template] = {}

    def __len__(self) -> int:
        return len(self._around_list) + len(self._before_binary)

    def read(self, text: Text) -> ParsedInfer | None:
        """What a document says; None if it is to be read as a whole."""
        start, end = _list_in(text)
        template = self._around_list.get(_around(text, start, end))
        if template is None:
            return None
        data = flat_numbers(template.datatype, template.size, bytes(text[start:end]))
        return None if data is None else template.filled(data)

    def read_binary(self, body: Text, json_length: int) -> ParsedInfer | None:
        """What a document says, with the binary data behind it; None as for `read`."""
        if json_length > TEMPLATE_BYTES_MAX:
            return None
        template = self._before_binary.get(bytes(body[:json_length]))
        if template is None or len(body) - json_length != template.size:
            return None
        return template.filled(memoryview(body)[json_length:])

    def learn(self, text: Text, parsed: ParsedInfer) -> None:
        """A document was read as a whole: remember it if it is simple enough."""
        tensor = _one_of_numbers(parsed)
        if tensor is None:
            return
        start, end = _list_in(text)
        around = _around(text, start, end)
        if not around:
            return
        count = math.prod(tensor.shape)
        if not _is_value(text, start, end):
            return
        if flat_numbers(tensor.datatype, count, bytes(text[start:end])) != tensor.data:
            return
        _remember(self._around_list, around, tensor, count, parsed)

    def learn_binary(self, body: Text, json_length: int, parsed: ParsedInfer) -> None:
        """The same for a document with binary data behind it."""
        tensor = _one_of_numbers(parsed)
        if tensor is None or json_length > TEMPLATE_BYTES_MAX:
            return
        if isinstance(tensor.data, memoryview):
            before = bytes(body[:json_length])
            _remember(self._before_binary, before, tensor, tensor.nbytes, parsed)


def _one_of_numbers(parsed: ParsedInfer) -> Tensor | None:
    """The one input of a request that may come again.

    With an id it would not. With several inputs there are several lists. Of other datatypes than
    numbers, data is looked at and not only counted.
    """
    if parsed.id is not None or len(parsed.inputs) != 1:
        return None
    (tensor,) = parsed.inputs
    return tensor if tensor.datatype in NUMBERS else None


def _remember(
    known: dict[bytes, _Template], key: bytes, tensor: Tensor, size: int, parsed: ParsedInfer
) -> None:
    if len(known) >= TEMPLATES_MAX:
        del known[next(iter(known))]
    said = replace(parsed, inputs=())
    known[key] = _Template(tensor.name, tensor.datatype, tensor.shape, size, said)


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
    """What is left of a document; empty if it holds no list, or either is too long.

    The list's place is that of the first `"data":` here, too, so that equal bytes mean one place.
    """
    list_bytes = end - start
    if not 0 < list_bytes <= LIST_BYTES_MAX or len(text) - list_bytes > TEMPLATE_BYTES_MAX:
        return b""
    return bytes(text[:start]) + bytes(text[end:])


def _is_value(text: Text, start: int, end: int) -> bool:
    """Whether the list is the data of the one input, or the one row of it."""
    try:
        document: Any = orjson.loads(b"".join((text[:start], _MARK_IN_JSON, text[end:])))
        entries = document["inputs"]
        return len(entries) == 1 and entries[0]["data"] in (_MARK, [_MARK])
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return False

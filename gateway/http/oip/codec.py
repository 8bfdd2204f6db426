"""The Open Inference Protocol's payloads, to and from tensors; pure and synchronous.

Theory: a request is a JSON object, or one followed by raw tensors (the binary tensor extension),
in which case a header says where the JSON ends. Every tensor is compared with the model's
interface by name, datatype, shape and number of elements, in this order, so that a replica gets
nothing it cannot run. Nothing is allocated by a shape that the request merely states, and binary
data is never copied: its tensors are views of the body.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import orjson

from penstock.gateway.http.bodies.element_bounds import (
    LARGE_BYTES,
    MAX_REQUEST_ELEMENTS,
    allowed_of,
    check_elements,
    check_json,
)
from penstock.gateway.http.parameters import (
    as_boolean,
    as_object,
    model_parameters,
    output_is_binary,
    priority_of,
    refuse_shared_memory,
    timeout_s_of,
)
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.payload import EncodedResponse
from penstock.gateway.http.tensors.bad_input import (
    bad_input,
    mismatch,
    quoted,
    shown,
    shown_names,
    shown_shape,
)
from penstock.gateway.http.tensors.checks import checked_shape, in_order
from penstock.gateway.http.tensors.document import load_document
from penstock.gateway.http.tensors.json_tensors import (
    bytes_from_json,
    flat_values,
    may_hold_booleans,
)
from penstock.gateway.http.tensors.large_arrays import (
    DOCUMENT_BYTES_MIN,
    LargeArray,
    bytes_from_large,
    bytes_from_large_list,
    document_without_arrays,
)
from penstock.gateway.http.tensors.large_lists import LargeList
from penstock.gateway.http.tensors.slices import tensor_slices
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.messages import PRIORITY_DEFAULT, Parameters
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import (
    LENGTH_BYTES,
    NUMPY_OF,
    Buffer,
    ElementsError,
    Tensor,
    element_ends,
)

FRAMES_MAX = 1024
"""Kinds of answers (by model, version, and the output's shape) that are remembered."""


def parse_infer(
    body: Buffer,
    header_length: int | None,
    interface: ModelInterface,
    max_elements: int = MAX_REQUEST_ELEMENTS,
) -> ParsedInfer:
    """Read an inference request and check it against the model.

    Args:
        body: the whole body.
        header_length: the `Inference-Header-Content-Length`, or None if there was none.
        interface: what the model takes and gives.
        max_elements: most numbers and texts in it; numbers in binary data do not count.

    Raises:
        PenstockError: INVALID_INPUT, with a message that names what was expected and what came.
    """
    text, binary = _split(body, header_length)
    if len(text) > LARGE_BYTES:
        check_json(text, allowed_of(interface, max_elements))
    document = document_without_arrays(text) if len(text) >= DOCUMENT_BYTES_MIN else None
    if document is None:
        document = load_document(text)
    request_id = document.get("id")
    if request_id is not None and type(request_id) is not str:
        raise mismatch("id", "a string", shown(request_id))
    if request_id is not None and len(request_id) > ID_CHARACTERS_MAX:
        expected = f"at most {ID_CHARACTERS_MAX} characters"
        raise mismatch("id", expected, f"{len(request_id)}")
    parameters = document.get("parameters")
    said = _NOTHING_SAID if parameters is None else _said(parameters, interface)
    reader = _InputReader(interface, binary, may_hold_booleans(text), max_elements)
    inputs = reader.read(document.get("inputs"))
    check_elements(inputs, max_elements)
    outputs, binary_outputs = _requested(document.get("outputs"), interface, said.binary_default)
    return ParsedInfer(
        id=request_id,
        inputs=inputs,
        outputs=outputs,
        binary_outputs=binary_outputs,
        binary_default=said.binary_default,
        parameters=said.parameters,
        priority=said.priority,
        timeout_s=said.timeout_s,
    )


@record
class _Said:
    """What a request says beside its tensors."""

    binary_default: bool = False
    parameters: Parameters = ()
    priority: int = PRIORITY_DEFAULT
    timeout_s: float | None = None


ID_CHARACTERS_MAX = 1024
"""Longest `id` of a request, which is kept with it and echoed: many times a UUID."""

_NOTHING_SAID = _Said()


def _said(parameters: Any, interface: ModelInterface) -> _Said:
    stated = as_object("parameters", parameters)
    what = 'parameter "binary_data_output"'
    return _Said(
        as_boolean(what, stated.get("binary_data_output")),
        model_parameters(stated, interface.parameters),
        priority_of(stated),
        timeout_s_of(stated),
    )


def _split(body: Buffer, header_length: int | None) -> tuple[bytes | bytearray, memoryview | None]:
    """The JSON, and the binary data behind it if a header announced any."""
    if header_length is None:
        return (bytes(body) if isinstance(body, memoryview) else body), None
    view = memoryview(body)
    if not 0 <= header_length <= view.nbytes:
        expected = f"a length within the body of {view.nbytes} bytes"
        raise mismatch("Inference-Header-Content-Length", expected, str(header_length))
    return bytes(view[:header_length]), view[header_length:]


class _InputReader:
    """Reads a request's inputs, taking binary data off the front of what follows the JSON."""

    def __init__(
        self,
        interface: ModelInterface,
        binary: memoryview | None,
        booleans_in_text: bool,
        max_elements: int,
    ) -> None:
        self._interface = interface
        self._specs = interface.inputs_by_name
        self._binary = binary
        self._taken = 0
        self._booleans_in_text = booleans_in_text
        self._max_elements = max_elements

    def read(self, entries: Any) -> tuple[Tensor, ...]:
        if type(entries) is not list:
            raise mismatch("inputs", "a list of tensors", shown(entries))
        tensors: dict[str, Tensor] = {}
        for entry in entries:
            tensor = self._read_one(entry)
            if tensor.name in tensors:
                raise mismatch(f"input {quoted(tensor.name)}", "one tensor of this name", "another")
            tensors[tensor.name] = tensor
        ordered = in_order(tensors, self._interface)
        if self._binary is not None and self._taken != self._binary.nbytes:
            expected = f"{self._taken} bytes after the JSON, the sum of all binary_data_size"
            raise mismatch("binary data", expected, str(self._binary.nbytes))
        return ordered

    def _read_one(self, entry: Any) -> Tensor:
        if type(entry) is not dict:
            raise mismatch("inputs", "tensors as objects", shown(entry))
        name = entry.get("name")
        if type(name) is not str:
            raise mismatch("input name", "a string", shown(name))
        spec = self._specs.get(name)
        if spec is None and self._interface.open_inputs:
            spec = _spec_of(name, entry)
        if spec is None:
            expected = f"one of the model's inputs ({shown_names(self._specs)})"
            raise mismatch("input", expected, quoted(name))
        what = _title(name)
        _check_datatype(what, entry.get("datatype"), spec)
        shape = checked_shape(
            what, entry.get("shape"), spec, batches=self._interface.max_batch_size > 0
        )
        return Tensor(name, spec.datatype, shape, self._data(what, entry, spec, shape))

    def _data(
        self, what: str, entry: dict[str, Any], spec: TensorSpec, shape: tuple[int, ...]
    ) -> Buffer:
        data = entry.get("data")
        parameters = entry.get("parameters")
        if parameters is not None:
            parameters = as_object(f"{what}: parameters", parameters)
            refuse_shared_memory(what, parameters)
            size = parameters.get("binary_data_size")
            if size is not None:
                if data is not None:
                    raise mismatch(what, "data or binary_data_size", "both")
                return self._take(what, size, spec, shape)
        if data is None:
            raise mismatch(what, "data or binary_data_size", "neither")
        if type(data) is LargeArray:
            return bytes_from_large(what, spec.datatype, shape, data)
        if type(data) is LargeList:
            return bytes_from_large_list(what, spec.datatype, shape, data)
        return bytes_from_json(what, spec.datatype, shape, data, self._booleans_in_text)

    def _take(self, what: str, size: Any, spec: TensorSpec, shape: tuple[int, ...]) -> memoryview:
        """The next `size` bytes of binary data, found to be the tensor's content."""
        if type(size) is not int or size < 0:
            raise mismatch(what, "a binary_data_size that is whole and not negative", shown(size))
        if self._binary is None:
            expected = "the header Inference-Header-Content-Length with binary_data_size"
            raise mismatch(what, expected, "no such header")
        count = math.prod(shape)
        if spec.datatype != "BYTES":
            needed = count * NUMPY_OF[spec.datatype].itemsize
            if size != needed:
                expected = f"{needed} bytes for {spec.datatype}{shown_shape(shape)}"
                raise mismatch(what, expected, f"binary_data_size {size}")
        left = self._binary.nbytes - self._taken
        if size > left:
            raise mismatch(what, f"{size} bytes of binary data (binary_data_size)", f"{left}")
        data = self._binary[self._taken : self._taken + size]
        self._taken += size
        if spec.datatype == "BYTES":
            if count > self._max_elements:  # each is looked at
                expected = f"at most {self._max_elements} elements (--max-request-elements)"
                raise mismatch(what, expected, str(count))
            _check_bytes_elements(what, data, count)
            if spec.text:
                _check_text(what, data, count)
        elif spec.datatype == "BOOL" and size and np.frombuffer(data, np.uint8).max() > 1:
            raise mismatch(what, "BOOL bytes of 0 or 1", "other values")
        return data


def _spec_of(name: str, entry: dict[str, Any]) -> TensorSpec | None:
    """What a tensor says of itself, to a model of which nothing is known; None: nothing usable."""
    datatype, shape = entry.get("datatype"), entry.get("shape")
    if datatype not in NUMPY_OF or type(shape) is not list:
        what = f"input {quoted(name)}"
        raise mismatch(what, "a datatype and a shape", f"{shown(datatype)} and {shown(shape)}")
    return TensorSpec(name=name, datatype=datatype, shape=(-1,) * len(shape))


@lru_cache(1024)
def _title(name: str) -> str:
    """What messages call an input."""
    return f"input {quoted(name)}"


def _check_datatype(what: str, datatype: Any, spec: TensorSpec) -> None:
    if datatype != spec.datatype:
        raise mismatch(what, f"datatype {spec.datatype}", shown(datatype))
    if datatype not in NUMPY_OF:
        raise bad_input(f"{what}: datatype {quoted(spec.datatype)} is not supported")


def _check_bytes_elements(what: str, data: memoryview, count: int) -> None:
    """Every element is prefixed by its length, and together they fill the data."""
    try:
        for _ in element_ends(data, count):
            pass
    except ElementsError as error:
        expected = f"{count} BYTES elements, each behind its length, in {data.nbytes} bytes"
        raise mismatch(what, expected, f"{error.elements} in {error.end} bytes") from None


def _check_text(what: str, data: memoryview, count: int) -> None:
    """Every element is UTF-8; the data is known to consist of elements."""
    start = LENGTH_BYTES
    for index, end in enumerate(element_ends(data, count)):
        try:
            str(data[start:end], "utf-8")
        except UnicodeDecodeError:
            raise mismatch(what, "text in UTF-8", f"other bytes in element {index}") from None
        start = end + LENGTH_BYTES


def _requested(
    entries: Any, interface: ModelInterface, binary_default: bool
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the outputs asked for, and of those wanted as binary data."""
    if entries is None or entries == []:
        return (), frozenset()
    if type(entries) is not list:
        raise mismatch("outputs", "a list of objects", shown(entries))
    names: dict[str, bool] = {}
    known = {spec.name for spec in interface.outputs}
    for entry in entries:
        if type(entry) is not dict:
            raise mismatch("outputs", "objects", shown(entry))
        name = entry.get("name")
        if type(name) is not str:
            raise mismatch("output name", "a string", shown(name))
        if name not in known:
            expected = shown_names(spec.name for spec in interface.outputs)
            raise mismatch("output", f"one of the model's outputs ({expected})", quoted(name))
        if name in names:
            raise mismatch(f"output {quoted(name)}", "to be asked for once", "twice")
        what = f"output {quoted(name)}"
        parameters = as_object(f"{what}: parameters", entry.get("parameters"))
        refuse_shared_memory(what, parameters)
        names[name] = output_is_binary(what, parameters, binary_default)
    return tuple(names), frozenset(name for name, binary in names.items() if binary)


def build_response(answer: InferenceAnswer, request: ParsedInfer) -> EncodedResponse:
    """The body that answers a request. Numbers that are not finite are `null` in JSON.

    Raises:
        PenstockError: MODEL_ERROR, if an output that JSON cannot hold was not asked for as binary.
        ValueError: if an output's data does not fit its datatype and shape.
    """
    if len(answer.outputs) == 1 and request.id is None:
        (tensor,) = answer.outputs
        shown = answer.model, answer.version, tensor.name, tensor.datatype, tensor.shape
        if request.wants_binary(tensor.name):
            text = _before_binary(*shown, tensor.nbytes)
            return EncodedResponse((text, tensor.data), len(text))
        front, back = _around_data(*shown)
        if tensor.nbytes > LARGE_BYTES:
            slices = list(tensor_slices(tensor, (math.prod(tensor.shape),)))
            return EncodedResponse((front, *slices, back))
        data = orjson.dumps(flat_values(tensor), option=orjson.OPT_SERIALIZE_NUMPY)
        return EncodedResponse((b"".join((front, data, back)),))
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if request.id is not None:
        document["id"] = request.id
    binary = [tensor.data for tensor in answer.outputs if request.wants_binary(tensor.name)]
    if max([tensor.nbytes for tensor in answer.outputs], default=0) <= LARGE_BYTES:
        document["outputs"] = [_entry(tensor, request) for tensor in answer.outputs]
        text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        return EncodedResponse((text, *binary), len(text) if binary else None)
    parts = [
        orjson.dumps(document)[:-1],
        b',"outputs":',
        *_entries_in_slices(answer, request),
        b"}",
    ]
    return EncodedResponse((*parts, *binary), sum(map(len, parts)) if binary else None)


def _entry(tensor: Tensor, request: ParsedInfer) -> dict[str, Any]:
    """What stands for an output in JSON."""
    entry: dict[str, Any] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": tensor.shape,
    }
    if request.wants_binary(tensor.name):
        entry["parameters"] = {"binary_data_size": tensor.nbytes}
    elif tensor.nbytes <= LARGE_BYTES:
        entry["data"] = flat_values(tensor)
    return entry


def _entries_in_slices(answer: InferenceAnswer, request: ParsedInfer) -> list[bytes]:
    """The same for all outputs, of which some are large, as one list."""
    parts: list[bytes] = []
    front = b"["
    for tensor in answer.outputs:
        entry = _entry(tensor, request)
        text = orjson.dumps(entry, option=orjson.OPT_SERIALIZE_NUMPY)
        if "data" in entry or "parameters" in entry:
            parts += (front, text)
        else:
            slices = list(tensor_slices(tensor, (math.prod(tensor.shape),)))
            parts += (front, text[:-1], b',"data":', *slices, b"}")
        front = b","
    return [*parts, b"]"]


@lru_cache(FRAMES_MAX)
def _around_data(
    model: str, version: str, output: str, datatype: str, shape: tuple[int, ...]
) -> tuple[bytes, bytes]:
    """What an answer of one tensor, in JSON, consists of before and after its data."""
    entry = {"name": output, "datatype": datatype, "shape": shape, "data": None}
    document = {"model_name": model, "model_version": version, "outputs": [entry]}
    text = orjson.dumps(document)
    return text.removesuffix(b"null}]}"), b"}]}"


@lru_cache(FRAMES_MAX)
def _before_binary(
    model: str, version: str, output: str, datatype: str, shape: tuple[int, ...], size: int
) -> bytes:
    """The JSON of an answer of one tensor that follows as binary data."""
    entry = {
        "name": output,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": size},
    }
    return orjson.dumps({"model_name": model, "model_version": version, "outputs": [entry]})

"""What a value is that a model yields: progress, or a part of its output. Pure.

A mapping with `progress`, a number from 0 to 1, and perhaps `message`, and with nothing else, is
progress; one that is out of bounds is taken for the bound. Whatever else is yielded is output, so
what only looks like progress is output too, and never an error.

Output is tensors, as those of an answer, if it can be made what the interface promises for one
row; the batch dimension may be missing, since the model was given one row alone. What cannot, such
as a text from a model whose outputs are numbers, is JSON, and is no answer.

Models go on changing what they have yielded, so all of it becomes bytes before they go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import orjson

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.payload import RESULT_TYPE, JobResult, pack_result
from penstock.shared.jobs.record import Content
from penstock.shared.wire.messages import Final, Request
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import AnyArray, Buffer
from penstock.worker.replica.assembly import split
from penstock.worker.runtimes.results import Result, ResultError, are_texts, arrange_one, array_of

JSON_TYPE = "application/json"

PROGRESS_NAMES = frozenset({"progress", "message"})

_JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_PLAIN = (str, bytes, bool, int, float, np.generic)


@record
class Output:
    """A part of a model's output, as bytes.

    Attributes:
        content: `RESULT_TYPE`, tensors packed as those of a result, or `JSON_TYPE`; no blob,
            however large.
        data: the bytes.
        misfit: why it cannot be the answer; empty if it can, and is tensors.
    """

    content: Content
    data: Buffer
    misfit: str = ""


def progress_of(value: object) -> Progress | None:
    """The progress that a yielded value tells; None if it is output."""
    if not isinstance(value, Mapping) or "progress" not in value:
        return None
    fraction, message = value["progress"], value.get("message")
    if not PROGRESS_NAMES.issuperset(value) or not _is_number(fraction):
        return None
    if message is not None and not isinstance(message, str | int | float):
        return None
    words = "" if message is None else str(message)
    return Progress(float(min(max(fraction, 0), 1)), words)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(value == value)


def output_of(value: object, request: Request, interface: ModelInterface) -> Output:
    """What is yielded and no progress, as bytes.

    Args:
        value: arrays, plain values, and lists, tuples and mappings of these; anything else is told
            in JSON as well as it can be.
        request: of one row; it may ask for some of the outputs only.
        interface: of the model.
    """
    try:
        batches = interface.max_batch_size > 0
        arrays = arrange_one(
            _result_of(value, interface.outputs), interface.outputs, batches=batches
        )
        (tensors,) = split(arrays, [request], interface)
    except ValueError as error:
        text = _json(value)
        return Output(Content(JSON_TYPE, len(text)), text, misfit=str(error))
    data = pack_result(JobResult("", Final(0, tensors)))
    return Output(Content(RESULT_TYPE, len(data)), data)


def _result_of(value: object, specs: Sequence[TensorSpec]) -> Result:
    if isinstance(value, Mapping):
        names = [str(name) for name in value]
        each = zip(names, value.values(), are_texts(names, specs), strict=True)
        return {name: _array_of(one, text=text) for name, one, text in each}
    if isinstance(value, tuple):
        texts = are_texts([""] * len(value), specs)
        return [_array_of(one, text=text) for one, text in zip(value, texts, strict=True)]
    return _array_of(value, text=bool(specs) and specs[0].datatype == "BYTES")


def _array_of(value: object, *, text: bool) -> AnyArray:
    """A value as an array; `text` as `penstock.worker.runtimes.results.array_of` has it.

    Raises:
        ResultError: if it is none.
    """
    if isinstance(value, str | bytes):
        return np.array(value, np.object_)
    if not (isinstance(value, (*_PLAIN, list, tuple)) or hasattr(value, "__array__")):
        raise ResultError(f"the model yielded {type(value).__name__}, which is no array")
    try:
        array = array_of(value, text=text)
    except Exception as error:  # ragged lists, integers beyond 64 bits, a library's own refusals
        raise ResultError(f"the model yielded a {type(value).__name__} that is no array") from error
    if array.dtype.kind == "O" and not all(isinstance(each, _PLAIN) for each in array.ravel()):
        raise ResultError("the model yielded an array of what is neither text nor numbers")
    return array


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value, default=_json_default, option=_JSON_OPTIONS)
    except orjson.JSONEncodeError:  # too deep, too large an integer, text that is not UTF-8
        return orjson.dumps(_words_of(value))


def _words_of(value: object) -> str:
    try:
        return ascii(value)
    except Exception:  # too deep, or its own code
        return f"<{type(value).__name__}>"


def _json_default(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    for method in ("model_dump", "to_dict", "tolist"):  # of pydantic, of MLflow, of arrays
        if callable(getattr(value, method, None)):
            return getattr(value, method)()
    return str(value)

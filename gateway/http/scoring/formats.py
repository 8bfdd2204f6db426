"""The payload formats of MLflow's scoring server and of KServe v1; pure and synchronous."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from penstock.gateway.http.bodies.element_bounds import (
    LARGE_BYTES,
    LISTS_MAX,
    MAX_REQUEST_ELEMENTS,
    SURPLUS_COLUMNS,
    Allowed,
    allowed_of,
    check_csv,
    check_elements,
    check_json,
)
from penstock.gateway.http.parameters import as_object, model_parameters
from penstock.gateway.http.payload import EncodedResponse, RawHeaders
from penstock.gateway.http.scoring.inputs import (
    table_of_records,
    table_of_split,
    tables_of_csv,
    tensors_of_bare,
    tensors_of_instances,
    tensors_of_named,
    tensors_of_pieces,
    tensors_of_table,
)
from penstock.gateway.http.scoring.outputs import (
    MlflowRefusalError,
    kserve_predictions,
    mlflow_predictions,
    scored,
)
from penstock.gateway.http.tensors.bad_input import mismatch, quoted, shown_names
from penstock.gateway.http.tensors.document import load_document
from penstock.gateway.http.tensors.large_lists import (
    PIECE_BYTES,
    LargeList,
    document_without,
    large_list,
    mark_of,
)
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface, Returns
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.wire.messages import PRIORITY_DEFAULT, WORDED, Parameters
from penstock.shared.wire.tensors import Buffer, Tensor, is_scoring, scoring_request

JSON, CSV, PARQUET = b"application/json", b"text/csv", b"application/vnd.apache.parquet"
KINDS = (b"", JSON, CSV, PARQUET)
"""Content types that MLflow's server takes; none means JSON."""

MLFLOW_FIELDS = ("dataframe_split", "dataframe_records", "instances", "inputs")
KSERVE_FIELDS = ("instances", "inputs")

_LISTS = re.compile(rb'"(?:dataframe_records|instances|inputs|data)"[ \t\r\n]*:[ \t\r\n]*\[')
"""Where lists begin that may have all rows."""

CSV_ROWS_MAX = 4096
"""Rows of a large table in CSV that are read at a time."""

MLFLOW_CODE_OF: dict[ErrorCode, str] = {
    ErrorCode.INVALID_INPUT: "BAD_REQUEST",
    ErrorCode.MODEL_NOT_FOUND: "RESOURCE_DOES_NOT_EXIST",
    ErrorCode.VERSION_NOT_FOUND: "RESOURCE_DOES_NOT_EXIST",
    ErrorCode.PAYLOAD_TOO_LARGE: "BAD_REQUEST",
    ErrorCode.BODY_TIMEOUT: "BAD_REQUEST",
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: "BAD_REQUEST",
    ErrorCode.FOREIGN_ORIGIN: "PERMISSION_DENIED",
    ErrorCode.UNKNOWN_HOST: "BAD_REQUEST",
    ErrorCode.QUEUE_FULL: "REQUEST_LIMIT_EXCEEDED",
    ErrorCode.QUEUE_TIMEOUT: "TEMPORARILY_UNAVAILABLE",
    ErrorCode.CANCELLED: "CANCELLED",
    ErrorCode.NO_READY_REPLICA: "TEMPORARILY_UNAVAILABLE",
    ErrorCode.NOT_SERVABLE: "TEMPORARILY_UNAVAILABLE",  # MLflow's only code with this status
    ErrorCode.SHUTTING_DOWN: "TEMPORARILY_UNAVAILABLE",
    ErrorCode.UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
    ErrorCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    ErrorCode.NOT_OFFERED: "BAD_REQUEST",
}
"""MLflow's codes; all others are `INTERNAL_ERROR`."""

ENFORCED = "INVALID_PARAMETER_VALUE"
"""MLflow's code for what its enforcement of a signature refuses, which runs in replicas."""


@dataclass(frozen=True, slots=True)
class ParsedScoring:
    """A request that fits the model.

    Attributes:
        platform: the model's runtime, which decides how MLflow words its answers.
        returns, keys: what the model returns, as `ModelInterface` has it.
    """

    inputs: tuple[Tensor, ...]
    parameters: Parameters
    platform: str
    returns: Returns = ""
    keys: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    priority: int = PRIORITY_DEFAULT
    timeout_s: float | None = None


def read_mlflow(
    body: Buffer, headers: RawHeaders, interface: ModelInterface, max_elements: int
) -> ParsedScoring:
    """Tensors that fit the model, from one of MLflow's four fields or from CSV; or the body itself,
    if the model's replicas are to read it, or a gateway cannot.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == PARQUET and not interface.scoring:
        raise mismatch("request", "JSON or CSV, since this model's replicas read no Parquet", "it")
    if interface.scoring == "all" or kind == PARQUET:
        _check_size(body, kind, Allowed(max_elements, LISTS_MAX))
        return _unread(body, kind, interface, max_elements)
    _check_size(body, kind, allowed_of(interface, max_elements))
    try:
        if kind == CSV:
            parsed = _parsed(_inputs_of_csv(body, interface), (), interface)
        else:
            parsed = _read_json(body, interface, MLFLOW_FIELDS, "params")
    except PenstockError:
        if not interface.scoring:
            raise
        return _unread(body, kind, interface, max_elements)
    check_elements(parsed.inputs, max_elements)
    if interface.scoring == "rows":
        parsed = _worded(parsed, interface) or _unread(body, kind, interface, max_elements)
    return parsed


def read_kserve(
    body: Buffer, headers: RawHeaders, interface: ModelInterface, max_elements: int
) -> ParsedScoring:
    """Tensors that fit the model, from `instances` or `inputs`; or the same in MLflow's words.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    if interface.scoring == "all":
        _check_size(body, JSON, Allowed(max_elements, LISTS_MAX))
        return _unread(_as_mlflow(body), JSON, interface, max_elements)
    _check_size(body, JSON, allowed_of(interface, max_elements))
    try:
        parsed = _read_json(body, interface, KSERVE_FIELDS, "parameters")
    except PenstockError:
        if not interface.scoring:
            raise
        return _unread(_as_mlflow(body), JSON, interface, max_elements)
    check_elements(parsed.inputs, max_elements)
    if interface.scoring == "rows":
        words = _worded(parsed, interface)
        parsed = words or _unread(_as_mlflow(body), JSON, interface, max_elements)
    return parsed


def _check_size(body: Buffer, kind: bytes, allowed: Allowed) -> None:
    """Refuse a body that holds more than is allowed; replicas check Parquet."""
    if len(body) <= LARGE_BYTES or kind == PARQUET:
        return
    if kind == CSV:
        check_csv(body, allowed)
    else:
        check_json(body, allowed, SURPLUS_COLUMNS)


def _unread(
    body: Buffer, kind: bytes, interface: ModelInterface, max_elements: int
) -> ParsedScoring:
    """A body that the model's replicas read."""
    content_type = kind.decode("latin-1") or "application/json"
    parameters = (("content_type", content_type), ("max_elements", max_elements))
    return ParsedScoring((scoring_request(body),), parameters, interface.platform)


def _worded(parsed: ParsedScoring, interface: ModelInterface) -> ParsedScoring | None:
    """A request whose answer the replica words; or the gateway, if it is to go in pieces.

    None if it is to go whole, as the body: its pieces cannot be put together again.
    """
    most = interface.max_batch_size
    if not most or parsed.inputs[0].rows <= most:
        return replace(parsed, parameters=(WORDED, *parsed.parameters))
    return parsed if interface.exact else None


def _as_mlflow(body: Buffer) -> bytes:
    """A body of KServe's in the words of MLflow's server.

    Raises:
        PenstockError: INVALID_INPUT.
    """
    document = load_document(_contiguous(body))
    field = _only_field(document, KSERVE_FIELDS)
    said: dict[str, Any] = {field: document[field]}
    if document.get("parameters") is not None:
        said["params"] = as_object("parameters", document["parameters"])
    return orjson.dumps(said)


def _parsed(
    inputs: tuple[Tensor, ...], parameters: Parameters, interface: ModelInterface
) -> ParsedScoring:
    returns, keys = interface.returns, interface.keys
    return ParsedScoring(inputs, parameters, interface.platform, returns, keys)


def _read_json(
    body: Buffer, interface: ModelInterface, fields: tuple[str, ...], parameters: str
) -> ParsedScoring:
    """From a document that has one of the fields, and parameters under their name."""
    text = _contiguous(body)
    inputs, document = _in_pieces(text, interface, fields)
    if inputs is None:
        document = load_document(text)
        field = _only_field(document, fields)
        inputs = _inputs(interface, field, document[field])
    stated = as_object(parameters, document.get(parameters))
    return _parsed(inputs, model_parameters(stated, interface.parameters), interface)


class MlflowFormat:
    """What `mlflow models serve` takes and gives; implements `PayloadFormat`."""

    name = "mlflow"

    def __init__(self, max_elements: int = MAX_REQUEST_ELEMENTS) -> None:
        self._max_elements = max_elements

    def check(self, headers: RawHeaders) -> None:
        """JSON, CSV or Parquet, texts in UTF-8."""
        given = headers.get(b"content-type", b"")
        kind, _, parameters = given.partition(b";")
        charset = parameters.strip().lower().replace(b'"', b"")
        if kind.strip().lower() not in KINDS or charset not in (b"", b"charset=utf-8"):
            raise PenstockError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                "content type: expected application/json or text/csv in UTF-8, or "
                f"{PARQUET.decode()}, got {quoted(given.decode('latin-1'))}",
            )

    def parse(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> ParsedScoring:
        """Tensors that fit the model, from one of MLflow's four fields or from CSV."""
        return read_mlflow(body, headers, interface, self._max_elements)

    def takes_long(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> bool:
        """Whether it is large: all of it is text."""
        return len(body) > LARGE_BYTES

    def build(self, answer: InferenceAnswer, parsed: ParsedScoring) -> EncodedResponse:
        """`{"predictions": ...}`."""
        if is_scoring(answer.outputs):
            return EncodedResponse((scored(answer.outputs[0]),))
        form = (parsed.returns, parsed.keys)
        return EncodedResponse(mlflow_predictions(answer, parsed.platform, *form))

    def error_body(self, error: PenstockError) -> bytes:
        """`{"error_code": "...", "message": "..."}`."""
        code = MLFLOW_CODE_OF.get(error.code, "INTERNAL_ERROR")
        if error.code is ErrorCode.INVALID_INPUT and error.attempts:
            code = ENFORCED
        if isinstance(error, MlflowRefusalError):
            code = error.mlflow_code
        return orjson.dumps({"error_code": code, "message": error.message})


class KserveFormat:
    """KServe's first protocol, which is TensorFlow Serving's; implements `PayloadFormat`."""

    name = "kserve"

    def __init__(self, max_elements: int = MAX_REQUEST_ELEMENTS) -> None:
        self._max_elements = max_elements

    def check(self, headers: RawHeaders) -> None:
        """Any content type, as in KServe: it is JSON."""

    def parse(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> ParsedScoring:
        """Tensors that fit the model, from `instances` or `inputs`."""
        return read_kserve(body, headers, interface, self._max_elements)

    def takes_long(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> bool:
        """Whether it is large: all of it is text."""
        return len(body) > LARGE_BYTES

    def build(self, answer: InferenceAnswer, parsed: ParsedScoring) -> EncodedResponse:
        """`{"predictions": ...}`."""
        if is_scoring(answer.outputs):
            return EncodedResponse((scored(answer.outputs[0]),))
        return EncodedResponse(kserve_predictions(answer))

    def error_body(self, error: PenstockError) -> bytes:
        """`{"error": "..."}`."""
        return orjson.dumps({"error": error.message})


def _contiguous(body: Buffer) -> bytes | bytearray:
    return bytes(body) if isinstance(body, memoryview) else body


def _in_pieces(
    text: bytes | bytearray, interface: ModelInterface, fields: tuple[str, ...]
) -> tuple[tuple[Tensor, ...] | None, dict[str, Any]]:
    """The inputs and the rest of a large document, in which one list has all rows.

    None and nothing where it is to be read whole, which finds what is wrong with it, if anything.
    """
    if len(text) <= LARGE_BYTES or not _has_rows(interface):
        return None, {}
    found = document_without(text, _LISTS, _large_rows)
    if found is None or len(found[1]) != 1:
        return None, {}
    document, (rows,) = found
    given = [field for field in fields if field in document]
    if len(given) != 1:
        return None, {}
    (field,) = given
    data = document[field]
    pieces: Iterator[Any] = _alike(rows.pieces(), interface)
    if field == "dataframe_split" and type(data) is dict and mark_of(data.get("data")) is not None:
        if interface.scoring and not _is_counted(data):
            return None, {}
        pieces = ({**data, "data": piece} for piece in pieces)
    elif mark_of(data) is None:
        return None, {}
    alone = _of_any_size(interface)
    try:
        tensors = (_inputs(alone, field, piece) for piece in pieces)
        return tensors_of_pieces(interface, tensors), document
    except (ValueError, PenstockError):
        return None, {}


def _large_rows(text: bytes | bytearray, start: int) -> LargeList | None:
    """The list that begins at `start`, if it is large.

    Raises:
        ValueError: it has no end.
    """
    found = large_list(text, start, PIECE_BYTES)
    return found if found.text.nbytes >= LARGE_BYTES else None


def _alike(pieces: Iterator[list[Any]], interface: ModelInterface) -> Iterator[list[Any]]:
    """Pieces whose rows look the same: what a row is to the model, its first one says."""
    needed = {spec.name for spec in interface.inputs if not spec.optional}
    looks: Any = None
    for piece in pieces:
        found: Any = type(piece[0]), len(piece[0]) if type(piece[0]) is list else 0
        if type(piece[0]) is dict:
            columns = _columns(piece)
            found = dict if needed <= columns.keys() else tuple(columns)
        if found != (found if looks is None else looks):
            raise ValueError("rows differ")
        looks = found
        yield piece


def _columns(records: list[Any]) -> dict[str, None]:
    """Names in the records, in order."""
    columns: dict[str, None] = {}
    for record in records:
        if type(record) is not dict:
            raise ValueError("rows differ")
        if record.keys() != columns.keys():
            columns.update(dict.fromkeys(record))
    return columns


def _inputs_of_csv(body: Buffer, interface: ModelInterface) -> tuple[Tensor, ...]:
    if len(body) > LARGE_BYTES and _has_rows(interface):
        alone = _of_any_size(interface)
        tables = tables_of_csv(body, CSV_ROWS_MAX)
        try:
            tensors = (tensors_of_table(alone, table) for table in tables)
            return tensors_of_pieces(interface, tensors)
        except (ValueError, PenstockError):
            pass  # to be read whole, which finds what is wrong
    (table,) = tables_of_csv(body)
    return tensors_of_table(interface, table)


def _has_rows(interface: ModelInterface) -> bool:
    """Whether inputs can be put together from some of their rows."""
    return all(spec.shape[:1] == (-1,) for spec in interface.inputs)


def _of_any_size(interface: ModelInterface) -> ModelInterface:
    """The same for some of the rows."""
    return interface.model_copy(update={"max_batch_size": 0, "table": False})


def _only_field(document: dict[str, Any], fields: tuple[str, ...]) -> str:
    given = [field for field in fields if field in document]
    if len(given) != 1:
        expected = f"exactly one of {shown_names(fields)}"
        raise mismatch("request", expected, shown_names(given) or "none of them")
    return given[0]


def _is_counted(split: Any) -> bool:
    """Whether a frame's index says no more than the places of its rows."""
    index = split.get("index") if type(split) is dict else None
    return index is None or (type(index) is list and index == list(range(len(index))))


def _inputs(interface: ModelInterface, field: str, data: Any) -> tuple[Tensor, ...]:
    if field == "dataframe_split":
        if interface.scoring and not _is_counted(data):
            raise mismatch(
                field, "an index of 0, 1, 2 and so on", "others, which the model may see"
            )
        return tensors_of_table(interface, table_of_split(data))
    if field == "dataframe_records":
        return tensors_of_table(interface, table_of_records(data))
    if field == "inputs" and type(data) is dict:
        return tensors_of_named(interface, data)
    if field == "inputs" and not (type(data) is list and data and type(data[0]) is dict):
        return tensors_of_bare(interface, data)
    return tensors_of_instances(interface, data)

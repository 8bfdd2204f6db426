"""The payload formats of MLflow's scoring server and of KServe v1; pure and synchronous.

Previous stop of a request: `gateway.http.call_route`, which read the body. Next: back there, and
then `gateway.service`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.calls import InferenceAnswer
from gateway.http.bad_input import bad_input, mismatch, quoted, shown_names
from gateway.http.element_bounds import (
    LARGE_BYTES,
    MAX_REQUEST_ELEMENTS,
    SURPLUS_COLUMNS,
    allowed_of,
    check_csv,
    check_elements,
    check_json,
)
from gateway.http.json_document import load_document
from gateway.http.oip_parameters import as_object, model_parameters
from gateway.http.payload import EncodedResponse, RawHeaders
from gateway.http.scoring_inputs import (
    table_of_csv,
    table_of_records,
    table_of_split,
    tensors_of_bare,
    tensors_of_instances,
    tensors_of_named,
    tensors_of_table,
)
from gateway.http.scoring_outputs import kserve_predictions, mlflow_predictions
from shared.deployment import ModelInterface
from shared.errors import ErrorCode, PenstockError
from shared.messages import PRIORITY_DEFAULT, Parameters
from shared.tensors import Buffer, Tensor

MLFLOW_FIELDS = ("dataframe_split", "dataframe_records", "instances", "inputs")
KSERVE_FIELDS = ("instances", "inputs")

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


@dataclass(frozen=True, slots=True)
class ParsedScoring:
    """A request that fits the model.

    Attributes:
        platform: the model's runtime, which decides how MLflow words its answers.
    """

    inputs: tuple[Tensor, ...]
    parameters: Parameters
    platform: str
    outputs: tuple[str, ...] = ()
    priority: int = PRIORITY_DEFAULT
    timeout_s: float | None = None


class MlflowFormat:
    """What `mlflow models serve` takes and gives; implements `PayloadFormat`."""

    def __init__(self, max_elements: int = MAX_REQUEST_ELEMENTS) -> None:
        self._max_elements = max_elements

    def check(self, headers: RawHeaders) -> None:
        """JSON or CSV, in UTF-8."""
        given = headers.get(b"content-type", b"").decode("latin-1")
        kind, _, parameters = given.partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if kind.strip().lower() not in ("", "application/json", "text/csv") or charset not in (
            "",
            "charset=utf-8",
        ):
            raise PenstockError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                f"content type: expected application/json or text/csv in UTF-8, got "
                f"{quoted(given)} (Parquet needs packages that a gateway does not have)",
            )

    def parse(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> ParsedScoring:
        """Tensors that fit the model, from one of MLflow's four fields or from CSV."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind == b"text/csv":
            if len(body) > LARGE_BYTES:
                check_csv(body, allowed_of(interface, self._max_elements))
            inputs = tensors_of_table(interface, table_of_csv(_text(body)))
            check_elements(inputs, self._max_elements)
            return ParsedScoring(inputs, (), interface.platform)
        document = _document(body, interface, self._max_elements)
        field = _only_field(document, MLFLOW_FIELDS)
        inputs = _inputs(interface, field, document[field])
        check_elements(inputs, self._max_elements)
        parameters = as_object("params", document.get("params"))
        kept = model_parameters(parameters, interface.parameters)
        return ParsedScoring(inputs, kept, interface.platform)

    def parse_alone(
        self, body: Buffer, headers: RawHeaders, interface: ModelInterface
    ) -> ParsedScoring:
        """The same; it never remembers anything."""
        return self.parse(body, headers, interface)

    def build(self, answer: InferenceAnswer, parsed: ParsedScoring) -> EncodedResponse:
        """`{"predictions": ...}`."""
        return EncodedResponse((mlflow_predictions(answer, parsed.platform),))

    def error_body(self, error: PenstockError) -> bytes:
        """`{"error_code": "...", "message": "..."}`."""
        code = MLFLOW_CODE_OF.get(error.code, "INTERNAL_ERROR")
        return orjson.dumps({"error_code": code, "message": error.message})


class KserveFormat:
    """KServe's first protocol, which is TensorFlow Serving's; implements `PayloadFormat`."""

    def __init__(self, max_elements: int = MAX_REQUEST_ELEMENTS) -> None:
        self._max_elements = max_elements

    def check(self, headers: RawHeaders) -> None:
        """Any content type, as in KServe: it is JSON."""

    def parse(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> ParsedScoring:
        """Tensors that fit the model, from `instances` or `inputs`."""
        document = _document(body, interface, self._max_elements)
        field = _only_field(document, KSERVE_FIELDS)
        inputs = _inputs(interface, field, document[field])
        check_elements(inputs, self._max_elements)
        parameters = as_object("parameters", document.get("parameters"))
        kept = model_parameters(parameters, interface.parameters)
        return ParsedScoring(inputs, kept, interface.platform)

    def parse_alone(
        self, body: Buffer, headers: RawHeaders, interface: ModelInterface
    ) -> ParsedScoring:
        """The same; it never remembers anything."""
        return self.parse(body, headers, interface)

    def build(self, answer: InferenceAnswer, parsed: ParsedScoring) -> EncodedResponse:
        """`{"predictions": ...}`."""
        return EncodedResponse((kserve_predictions(answer),))

    def error_body(self, error: PenstockError) -> bytes:
        """`{"error": "..."}`."""
        return orjson.dumps({"error": error.message})


def _contiguous(body: Buffer) -> bytes | bytearray:
    return bytes(body) if isinstance(body, memoryview) else body


def _document(body: Buffer, interface: ModelInterface, max_elements: int) -> dict[str, Any]:
    if len(body) > LARGE_BYTES:
        check_json(body, allowed_of(interface, max_elements), SURPLUS_COLUMNS)
    return load_document(_contiguous(body))


def _text(body: Buffer) -> str:
    try:
        return str(body, "utf-8-sig")
    except UnicodeDecodeError:
        raise bad_input("request: expected CSV in UTF-8, got other bytes") from None


def _only_field(document: dict[str, Any], fields: tuple[str, ...]) -> str:
    given = [field for field in fields if field in document]
    if len(given) != 1:
        expected = f"exactly one of {shown_names(fields)}"
        raise mismatch("request", expected, shown_names(given) or "none of them")
    return given[0]


def _inputs(interface: ModelInterface, field: str, data: Any) -> tuple[Tensor, ...]:
    if field == "dataframe_split":
        return tensors_of_table(interface, table_of_split(data))
    if field == "dataframe_records":
        return tensors_of_table(interface, table_of_records(data))
    if field == "inputs" and type(data) is dict:
        return tensors_of_named(interface, data)
    if field == "inputs" and not (type(data) is list and data and type(data[0]) is dict):
        return tensors_of_bare(interface, data)
    return tensors_of_instances(interface, data)

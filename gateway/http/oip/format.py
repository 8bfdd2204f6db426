"""The Open Inference Protocol as a format of payloads: what `penstock.gateway.http.call_route` asks
for.

Bodies that look like one that came before are read by what was learned of that
(`penstock.gateway.http.oip.templates`), all others by `penstock.gateway.http.oip.codec`.
"""

from __future__ import annotations

from penstock.gateway.http.bodies.element_bounds import (
    LARGE_BYTES,
    MAX_REQUEST_ELEMENTS,
)
from penstock.gateway.http.errors import plain_error_body
from penstock.gateway.http.oip.codec import build_response, parse_infer
from penstock.gateway.http.oip.templates import Templates
from penstock.gateway.http.parsed_infer import ParsedInfer
from penstock.gateway.http.payload import EncodedResponse, RawHeaders
from penstock.gateway.http.server.headers import (
    JSON_LENGTH_HEADER,
    check_content_type,
    json_length_of,
)
from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.wire.tensors import Buffer

INTERFACES_MAX = 256
"""Versions of models whose documents are remembered."""


class OipFormat:
    """The protocol's requests and answers: `penstock.gateway.http.payload.PayloadFormat`."""

    name = "oip"

    def __init__(self, max_elements: int = MAX_REQUEST_ELEMENTS) -> None:
        self._max_elements = max_elements
        self._templates: dict[int, tuple[ModelInterface, Templates]] = {}

    def check(self, headers: RawHeaders) -> None:
        """JSON or binary tensors only."""
        check_content_type(headers)
        json_length_of(headers)

    def parse(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> ParsedInfer:
        """Tensors that fit the model."""
        json_length = json_length_of(headers) if JSON_LENGTH_HEADER in headers else None
        if isinstance(body, memoryview):
            return parse_infer(body, json_length, interface, self._max_elements)
        templates = self._templates_of(interface)
        if json_length is None:
            parsed = templates.read(body)
            if parsed is None:
                parsed = parse_infer(body, None, interface, self._max_elements)
                templates.learn(body, parsed)
        else:
            parsed = templates.read_binary(body, json_length)
            if parsed is None:
                parsed = parse_infer(body, json_length, interface, self._max_elements)
                templates.learn_binary(body, json_length, parsed)
        return parsed

    def _templates_of(self, interface: ModelInterface) -> Templates:
        """By the interface's identity: it is the same object for as long as it is known."""
        known = self._templates.get(id(interface))
        if known is not None and known[0] is interface:
            return known[1]
        if len(self._templates) >= INTERFACES_MAX:
            self._templates.clear()
        templates = Templates()
        self._templates[id(interface)] = interface, templates
        return templates

    def takes_long(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> bool:
        """Whether there is much JSON, or many elements of BYTES, each to be looked at."""
        if len(body) <= LARGE_BYTES:
            return False
        json_length = json_length_of(headers)
        if json_length is None or json_length > LARGE_BYTES:
            return True
        return any(spec.datatype == "BYTES" for spec in interface.inputs)

    def build(self, answer: InferenceAnswer, parsed: ParsedInfer) -> EncodedResponse:
        """JSON, with the tensors that are wanted as binary data behind it."""
        return build_response(answer, parsed)

    def error_body(self, error: PenstockError) -> bytes:
        """`{"error": "..."}`."""
        return plain_error_body(error)

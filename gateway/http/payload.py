"""What a format of requests and answers is to the route that serves it.

The Open Inference Protocol, MLflow's scoring and KServe v1 put the same question to the service in
different words; everything around the words is the same, and lies in
`penstock.gateway.http.call_route`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias, TypeVar

from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.wire.messages import Parameters
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer, Tensor

RawHeaders: TypeAlias = Mapping[bytes, bytes]


class ParsedCall(Protocol):
    """A request that fits the model; its members are those of `InferenceCall`."""

    @property
    def inputs(self) -> tuple[Tensor, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def parameters(self) -> Parameters: ...

    @property
    def priority(self) -> int: ...

    @property
    def timeout_s(self) -> float | None: ...


@record
class EncodedResponse:
    """An answer's body.

    Attributes:
        parts: what the body consists of, in order.
        header_length: bytes of the JSON in front of binary data, or None without any.
    """

    parts: tuple[Buffer, ...]
    header_length: int | None = None


P = TypeVar("P", bound=ParsedCall)


class PayloadFormat(Protocol[P]):
    """How requests are worded, and answers to them.

    Attributes:
        name: of the function in `penstock.gateway.http.body_process` that reads its large bodies.
    """

    @property
    def name(self) -> str: ...

    def check(self, headers: RawHeaders) -> None:
        """Refuse, by its headers alone, what is not worded so.

        Raises:
            PenstockError: UNSUPPORTED_MEDIA_TYPE, INVALID_INPUT.
        """
        ...

    def parse(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> P:
        """Read a request and check it against the model.

        Raises:
            PenstockError: INVALID_INPUT, with a message that names what was expected and what came.
        """
        ...

    def takes_long(self, body: Buffer, headers: RawHeaders, interface: ModelInterface) -> bool:
        """Whether `penstock.gateway.http.bodies.readers` is to read a body, lest others wait."""
        ...

    def build(self, answer: InferenceAnswer, parsed: P) -> EncodedResponse:
        """The body of an answer.

        Raises:
            PenstockError: MODEL_ERROR, if the format cannot hold what the model gave.
        """
        ...

    def error_body(self, error: PenstockError) -> bytes:
        """The JSON that a failed request is answered with."""
        ...

"""The peers' protocols: what asks for the answer to some rows, and what is in an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgpack
import numpy as np
import orjson

from load_tests.server import Encoding, HttpRequest, Rows, ServerError
from load_tests.servers import oip

JSON_HEADERS = {"content-type": "application/json"}
MSGPACK_HEADERS = {"content-type": "application/msgpack"}


class WireProtocol(Protocol):
    """How a peer is asked and answers."""

    @property
    def encodings(self) -> Sequence[Encoding]: ...

    def request(self, model: str, encoding: Encoding, rows: Rows) -> HttpRequest:
        """The request that asks a model for its answer to some rows."""
        ...

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        """The rows in the body of a 200.

        Raises:
            ServerError: if it holds none.
        """
        ...


class RowsProtocol:
    """`{"inputs": [[...]]}` as JSON, and perhaps as a msgpack map of a shape and raw bytes."""

    def __init__(
        self,
        path: str,
        output_field: str | None = "outputs",
        encodings: Sequence[Encoding] = (Encoding.JSON,),
    ) -> None:
        """
        Args:
            path: `{model}` in it becomes the model's name.
            output_field: of a JSON answer; None if it is the rows themselves.
        """
        self._path = path
        self._output_field = output_field
        self.encodings = encodings

    def request(self, model: str, encoding: Encoding, rows: Rows) -> HttpRequest:
        path = self._path.format(model=model)
        if encoding is Encoding.MSGPACK:
            message = {"shape": rows.shape, "data": rows.tobytes()}
            return HttpRequest(path, msgpack.packb(message), MSGPACK_HEADERS)
        return HttpRequest(path, json_bytes({"inputs": rows}), JSON_HEADERS)

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        try:
            if encoding is Encoding.MSGPACK:
                message = msgpack.unpackb(body)
                rows = np.frombuffer(message["data"], np.float32)
                return two_dimensional(rows.reshape(message["shape"]))
            answer = orjson.loads(body)
            lists = answer if self._output_field is None else answer[self._output_field]
            return two_dimensional(np.array(lists, np.float32))
        except (KeyError, TypeError, ValueError, msgpack.UnpackException) as error:
            raise ServerError(f"no rows in {body[:200]!r}") from error


class OipProtocol:
    """The Open Inference Protocol, in JSON and perhaps with its binary tensor extension."""

    def __init__(self, encodings: Sequence[Encoding] = (Encoding.JSON,)) -> None:
        self.encodings = encodings

    def request(self, model: str, encoding: Encoding, rows: Rows) -> HttpRequest:
        return oip.infer_request(model, encoding, rows)

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        return two_dimensional(oip.infer_answer(headers, body))


def json_bytes(value: object) -> bytes:
    """As JSON, arrays with all the digits that FP32 has."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def two_dimensional(rows: Rows) -> Rows:
    """Refuse what are not rows.

    Raises:
        ServerError: if they are not.
    """
    if rows.ndim != 2:
        raise ServerError(f"an answer of {rows.ndim} dimensions instead of two")
    return rows

"""The Open Inference Protocol as a client speaks it: requests, and what is in the answers; pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from load_tests.server import Encoding, HttpRequest, Inputs, Rows, ServerError

JSON_LENGTH = "inference-header-content-length"
DATATYPES = {"f": "FP32", "i": "INT64"}
"""By numpy's kind."""


def infer_request(model: str, encoding: Encoding, rows: Inputs) -> HttpRequest:
    """Ask a model for its output `y` to an input `x`, of any shape, FP32 or INT64."""
    path = f"/v2/models/{model}/infer"
    if encoding is Encoding.JSON:
        tensor = _tensor(rows) | {"data": [_shortest(number) for number in rows.ravel()]}
        document = {"inputs": [tensor]}
        return HttpRequest(path, _dumps(document), {"content-type": "application/json"})
    raw = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).tobytes()
    tensor = _tensor(rows) | {"parameters": {"binary_data_size": len(raw)}}
    output = {"name": "y", "parameters": {"binary_data": True}}
    head = _dumps({"inputs": [tensor], "outputs": [output]})
    headers = {"content-type": "application/octet-stream", JSON_LENGTH: str(len(head))}
    return HttpRequest(path, head + raw, headers)


def infer_answer(headers: Mapping[str, str], body: bytes) -> Rows:
    """The output `y` in an answer.

    Raises:
        ServerError: if there is none.
    """
    length = headers.get(JSON_LENGTH)
    head = body if length is None else body[: int(length)]
    try:
        (output,) = (one for one in _loads(head)["outputs"] if one["name"] == "y")
        if length is None:
            numbers = np.asarray(output["data"], dtype=np.float32)
        else:
            numbers = np.frombuffer(body, "<f4", offset=int(length))
        return numbers.reshape(output["shape"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(f"an answer without the output y: {body[:200]!r}") from error


def version_of(headers: Mapping[str, str], body: bytes) -> str:
    """Which version of the model answered."""
    length = headers.get(JSON_LENGTH)
    return str(_loads(body if length is None else body[: int(length)])["model_version"])


def _tensor(rows: Inputs) -> dict[str, Any]:
    return {"name": "x", "datatype": DATATYPES[rows.dtype.kind], "shape": list(rows.shape)}


def _shortest(number: np.float32 | np.int64) -> float:
    """As an FP32 is written: 0.1 rather than 0.10000000149011612; an INT64 as it is."""
    return float(str(number)) if isinstance(number, np.floating) else int(number)


def _dumps(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _loads(text: bytes) -> Any:
    return json.loads(text)

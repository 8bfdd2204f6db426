"""What the interactive documentation says of several fronts: an inference's shapes, and errors.

Requests are read by `penstock.gateway.http.oip.codec`, which is stricter and much faster than these
models.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field

Model = Annotated[str, Path(description="Name of a registered model.")]
Version = Annotated[str, Path(description="A version of the model.")]


class ErrorBody(BaseModel):
    """What every failed request is answered with."""

    error: str = Field(description="What was expected and what came.")


class InferInput(BaseModel):
    """One input tensor."""

    name: str
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(examples=[[1, 4]])
    parameters: dict[str, Any] | None = Field(
        None, description="`binary_data_size`: bytes of this tensor behind the JSON."
    )
    data: list[Any] | None = Field(
        None,
        description="Elements, nested to the shape or flat in row-major order.",
        examples=[[0.5, 1, 0, 2]],
    )


class RequestedOutput(BaseModel):
    """One output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = Field(
        None, description="`binary_data`: whether to send this output behind the JSON."
    )


class InferRequest(BaseModel):
    """A request for an inference."""

    id: str | None = Field(None, description="Echoed in the answer.")
    parameters: dict[str, Any] | None = Field(
        None,
        description="`timeout` (microseconds), `priority` (1 first to 9 last, 0 default), "
        "`binary_data_output`; any other string, number or boolean is passed to the model.",
    )
    inputs: list[InferInput]
    outputs: list[RequestedOutput] | None = Field(None, description="Default: all outputs.")


class InferOutput(BaseModel):
    """One output tensor."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = Field(
        None, description="`binary_data_size`: bytes of this tensor behind the JSON."
    )
    data: list[Any] | None = Field(
        None, description="Elements in row-major order; null for a number that is not finite."
    )


class InferResponse(BaseModel):
    """The answer to an inference request."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str = Field(description="The version that answered.")
    id: str | None = None
    outputs: list[InferOutput]


_BINARY: dict[str, Any] = {
    "schema": {
        "type": "string",
        "format": "binary",
        "description": "JSON followed by raw tensors in the order of the JSON; the header "
        "Inference-Header-Content-Length says how long the JSON is.",
    }
}

_INFER_REQUEST: dict[str, Any] = InferRequest.model_json_schema(
    ref_template="#/components/schemas/{model}"
)

REQUEST_SCHEMAS: dict[str, Any] = {
    **_INFER_REQUEST.pop("$defs"),
    "InferRequest": _INFER_REQUEST,
    "ErrorBody": ErrorBody.model_json_schema(),
}
"""Schemas that requests and errors refer to, by name: the framework does not see them, since it
neither reads requests nor writes errors."""


def error_responses(schema: str) -> dict[int | str, dict[str, Any]]:
    """What failed requests are answered with, all in one shape."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {
        "4XX": {
            "description": "The request is at fault, or the queue is full.",
            "content": content,
        },
        "5XX": {"description": "The model failed, or nothing can answer now.", "content": content},
    }


ERRORS = error_responses("ErrorBody")

_HEADERS = (
    ("Inference-Header-Content-Length", "integer", "Length of the JSON in a binary body."),
    ("x-request-timeout-seconds", "number", "Longest time that the request may take."),
    ("x-request-id", "string", "Named in the answer and in logs; made up if missing."),
    ("traceparent", "string", "W3C trace context."),
)

INFER_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
            "application/octet-stream": _BINARY,
        },
    },
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": description,
            "schema": {"type": kind},
        }
        for name, kind, description in _HEADERS
    ],
}
"""The infer route's request, which the framework cannot see since it does not read it."""

NO_BODY_OPENAPI: dict[str, Any] = {
    "requestBody": {"required": False, "content": {"application/json": {"schema": {}}}}
}
"""A request whose body, if there is one, says nothing."""

"""What can be set about the HTTP front of a gateway."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from penstock.gateway.clients.origin_policy import OriginPolicy
from penstock.gateway.http.bodies.element_bounds import MAX_REQUEST_ELEMENTS


class HttpSettings(BaseModel):
    """Bounds and defaults of the HTTP front."""

    model_config = ConfigDict(frozen=True)

    origins: OriginPolicy = Field(
        OriginPolicy(), description="What pages in browsers may ask; by default only its own."
    )
    max_body_bytes: int = Field(
        64 * 1024 * 1024, gt=0, le=2**31, description="Largest request body, in bytes; beyond: 413."
    )
    max_request_elements: int = Field(
        MAX_REQUEST_ELEMENTS,
        gt=0,
        description="Most numbers and texts in one request, whatever the model takes; beyond: 400. "
        "Numbers in binary data do not count. The default is as many FP32 as the largest body "
        "holds.",
    )
    max_request_rows: int = Field(
        0,
        ge=0,
        description="Most rows in one request to a model that takes rows; beyond: 400. 0: any "
        "number, executed in pieces.",
    )
    body_timeout_s: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Longest that a request's body may take to arrive; beyond: 408, and the "
        "connection ends.",
    )
    compress_min_bytes: int = Field(
        16 * 1024,
        ge=0,
        description="Smallest answer that is compressed for a client that accepts it: below, it "
        "takes longer than sending the rest does.",
    )
    retry_after_s: float = Field(
        1.0, gt=0, le=3600, description="Retry-After of answers for which nothing better is known."
    )
    max_metric_series: int = Field(
        256,
        gt=0,
        description="Most pairs of model and version with metrics of their own at a time; beyond, "
        "the pair that was first seen longest ago is dropped.",
    )

"""Shapes of the extensions' messages, for the interactive documentation only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class DurationBody(BaseModel):
    """How often, and how long in all."""

    count: int
    ns: int


class InferenceStatisticsBody(BaseModel):
    """What became of calls, and where their time went."""

    success: DurationBody = Field(description="From a request's headers to its answer.")
    fail: DurationBody
    queue: DurationBody = Field(description="In the gateway and in the replica's queue.")
    compute_input: DurationBody = Field(description="Reading the request into tensors.")
    compute_infer: DurationBody = Field(description="Execution of the batch that a call was in.")
    compute_output: DurationBody = Field(description="Writing tensors into the answer.")
    cache_hit: DurationBody
    cache_miss: DurationBody


class BatchStatisticsBody(BaseModel):
    """Executions of one batch size: this gateway's share."""

    batch_size: int
    compute_input: DurationBody
    compute_infer: DurationBody
    compute_output: DurationBody


class VersionStatisticsBody(BaseModel):
    """One version, as this gateway saw it."""

    name: str
    version: str
    last_inference: int = Field(description="Milliseconds since 1970; 0: never.")
    inference_count: int = Field(description="Rows of answered calls.")
    execution_count: int = Field(description="Executions: this gateway's share, rounded.")
    inference_stats: InferenceStatisticsBody
    batch_stats: list[BatchStatisticsBody]


class StatisticsBody(BaseModel):
    """What became of this gateway's calls since it started."""

    model_stats: list[VersionStatisticsBody]


class ConfigTensorBody(BaseModel):
    """One input or output, without the batch dimension."""

    name: str
    data_type: str = Field(examples=["TYPE_FP32"])
    dims: list[int]


class ModelConfigBody(BaseModel):
    """What is known of Triton's model configuration."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[ConfigTensorBody]
    output: list[ConfigTensorBody]
    parameters: dict[str, Any]
    dynamic_batching: dict[str, Any] | None = None


class IndexEntry(BaseModel):
    """One deployed version."""

    name: str
    version: str | None = None
    state: str = Field(examples=["READY", "UNAVAILABLE"])
    reason: str


INDEX_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "ready": {
                            "type": "boolean",
                            "description": "List only what is ready.",
                        }
                    },
                }
            }
        },
    }
}

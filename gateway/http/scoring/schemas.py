"""Shapes of MLflow's and KServe's messages, for the interactive documentation only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class MlflowErrorBody(BaseModel):
    """What MLflow's clients expect of a failed request."""

    error_code: str = Field(examples=["BAD_REQUEST"])
    message: str


class Predictions(BaseModel):
    """What the model gave."""

    predictions: Any = Field(
        description="Nested lists, an object of them by output, or a list of objects."
    )


class KserveModels(BaseModel):
    """Names of the deployed models."""

    models: list[str]


class KserveModel(BaseModel):
    """Whether a model can be called."""

    name: str
    ready: bool


_DATA: dict[str, Any] = {
    "description": "By name, or bare for a model with one input.",
    "example": [[0.5, 1, 0, 2]],
}

_MLFLOW_FIELDS: dict[str, dict[str, Any]] = {
    "dataframe_split": {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}},
            "data": {"type": "array", "items": {"type": "array", "items": {}}},
            "index": {"type": "array", "items": {}},
        },
        "required": ["data"],
    },
    "dataframe_records": {"type": "array", "items": {"type": "object"}},
    "instances": {"type": "array", "items": {}},
    "inputs": _DATA,
}


def _one_of(fields: dict[str, dict[str, Any]], parameters: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**fields, parameters: {"type": "object"}},
        "oneOf": [{"required": [name]} for name in fields],
    }


MLFLOW_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": _one_of(_MLFLOW_FIELDS, "params")},
            "text/csv": {"schema": {"type": "string"}},
        },
    }
}

KSERVE_OPENAPI: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _one_of(
                    {name: _MLFLOW_FIELDS[name] for name in ("instances", "inputs")}, "parameters"
                )
            }
        },
    }
}

SCORING_SCHEMAS: dict[str, Any] = {"MlflowErrorBody": MlflowErrorBody.model_json_schema()}
"""Schemas that errors refer to, by name."""

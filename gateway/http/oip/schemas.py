"""Shapes of the Open Inference Protocol's own messages, for interactive documentation only."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class AliveBody(BaseModel):
    """What KServe's first protocol has for a server that runs."""

    status: str = Field(examples=["alive"])


class LiveBody(BaseModel):
    """Whether the server runs."""

    live: bool


class ReadyBody(BaseModel):
    """Whether the server can take inference requests."""

    live: bool
    ready: bool
    reason: str | None = Field(None, description="Why it is not ready; absent where it is.")


class ModelReadyBody(BaseModel):
    """Whether a model can be called."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """What a model takes or gives under one name."""

    name: str
    datatype: str = Field(examples=["FP32"])
    shape: list[int] = Field(description="-1 where any size will do.", examples=[[-1, 64]])


class ModelMetadataBody(BaseModel):
    """A model that can be called."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    versions: list[str] = Field(description="Versions that can be called, the default first.")
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]

"""Settings of `penstock up`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from penstock.registry_sync.plan.tags.names import DEFAULT_PREFIX, PREFIX_PATTERN
from penstock.shared.contracts.settings import NAMESPACE, Namespace


class UpSettings(BaseSettings):
    """What `penstock up` takes; the services' own settings reach them by `PENSTOCK_*` variables."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    demo: bool = Field(False, description="Log the model `digits` to MLflow and show how to call.")
    host: str = Field("127.0.0.1", description="Address that the gateways listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port of the gateways; 0: a free one.")
    data_dir: Path = Field(
        Path(".penstock"), description="Folder of everything that outlives the processes."
    )
    gateways: int = Field(1, ge=1, le=64, description="Gateway processes; they share the port.")
    workers: int = Field(1, ge=1, le=64, description="Worker agents.")
    syncs: int = Field(
        1, ge=1, le=8, description="registry_sync processes; all but one stand by for it."
    )
    mlflow_uri: str | None = Field(
        None, description="Registry to follow; without one an MLflow server is started."
    )
    models: Path | None = Field(
        None,
        description="Folder of models to follow instead, DIR/<model>/<version>/; no MLflow then.",
    )
    tag_prefix: str = Field(
        DEFAULT_PREFIX,
        pattern=PREFIX_PATTERN,
        description="What the tags of this system begin with, to share a registry with others.",
    )
    include: tuple[str, ...] = Field(
        (), description="Patterns of the names of models that are followed; none: all."
    )
    exclude: tuple[str, ...] = Field(
        (), description="Patterns of the names of models that are not followed."
    )
    model_tag: str = Field(
        "", description="NAME or NAME=VALUE: only registered models with this tag are followed."
    )
    mlflow_port: int = Field(5000, ge=1, le=65535, description="Port of the MLflow server.")
    redis_url: str | None = Field(
        None,
        pattern=r"^(redis|rediss|unix)://",
        description="State store to use; without one an embedded server is started.",
    )
    error_details: Literal["auto", "message", "none"] = Field(
        "auto",
        description="As for `worker`; auto: `message` where the gateways listen on the loopback.",
    )
    store_memory: str | None = Field(
        None,
        pattern=r"^[1-9][0-9]*(kb|mb|gb)?$",
        description="Most memory of the embedded server's data, in bytes or as 2gb; by default a "
        "quarter of the machine's, but at least 1gb.",
    )
    blobs_url: str | None = Field(
        None,
        min_length=1,
        description="Folder, or URL such as s3://BUCKET/PREFIX, for large payloads and results of "
        "jobs; without one a folder of the data directory.",
    )
    webhook_secrets: SecretStr | None = Field(
        None,
        description="By which webhooks of jobs are signed, as for `gateway`; without it a secret "
        "is made once and kept in the data directory; empty: no webhooks. A flag shows in the list "
        "of processes, the variable does not.",
    )
    namespace: Namespace = NAMESPACE
    metrics_port: int = Field(
        9180, ge=0, le=65535, description="Port of the sum of all processes' metrics; 0: none."
    )
    drain_grace_s: float = Field(
        20.0, ge=0, description="How long work that was taken in may take to finish at the end."
    )
    drain_timeout_s_max: float = Field(
        3600.0,
        ge=0,
        description="Longest that jobs which run may hold up the end, or a restart, of a worker, "
        "where penstock.drain_timeout_s of their models is above the grace.",
    )
    handover_grace_s: float = Field(
        120.0, ge=0, description="How long a worker that is replaced waits for others to take over."
    )
    ready_timeout_s: float = Field(
        120.0, gt=0, description="How long each part may take to get ready at the start."
    )

    @model_validator(mode="after")
    def _one_registry(self) -> Self:
        if self.models is not None and self.mlflow_uri is not None:
            raise ValueError("follow a folder by --models or MLflow by --mlflow-uri, not both")
        if self.models is not None and self.demo:
            raise ValueError("--demo logs its model to MLflow, which --models does without")
        return self

    @property
    def models_dir(self) -> Path | None:
        """The folder of models that is followed, as every process may call it."""
        return self.models.expanduser().absolute() if self.models is not None else None

    @property
    def starts_mlflow(self) -> bool:
        """Whether an MLflow server is part of the system."""
        return self.models is None and self.mlflow_uri is None

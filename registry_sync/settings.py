"""Settings of registry_sync, from flags or `PENSTOCK_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from penstock.registry_sync.plan.model_filter import ModelFilter
from penstock.registry_sync.plan.tags.names import DEFAULT_PREFIX, PREFIX_PATTERN, TagNames
from penstock.registry_sync.plan.world import Policy
from penstock.shared.contracts.settings import CommonSettings


class SyncSettings(CommonSettings):
    """What registry_sync takes beyond the common settings."""

    mlflow_uri: str = Field(
        "http://127.0.0.1:5000", description="MLflow's tracking server, with the registry."
    )
    models: Path | None = Field(
        None, description="Folder of models to follow instead of MLflow: DIR/<model>/<version>/."
    )
    folder_default_role: Literal["latest", "none"] = Field(
        "latest",
        description="In a folder, what is stable where nothing is named so: the highest version, "
        "or none.",
    )
    folder_settle_s: float = Field(
        1.0, ge=0, description="How long a file in a folder must stay the same before it counts."
    )
    poll_interval_s: float = Field(
        2.0, gt=0, description="How often the registry is read, give or take a tenth."
    )
    mlflow_timeout_s: float = Field(
        10.0, ge=1, description="Longest wait for one answer of MLflow, in whole seconds."
    )
    registry_timeout_s: float = Field(
        60.0,
        gt=0,
        description="Longest that one look at the registry, or one status, may take: it is given "
        "up then and tried again; while a look hangs, the next one has twice as long. A look at "
        "MLflow is three answers and more.",
    )
    stable_aliases: tuple[str, ...] = Field(
        ("production", "champion"),
        description="Aliases that name the stable version, the strongest first.",
    )
    tag_prefix: str = Field(
        DEFAULT_PREFIX,
        pattern=PREFIX_PATTERN,
        description="What the tags of this system begin with, and then a dot: several systems may "
        "follow one registry, each with a prefix of its own.",
    )
    include: tuple[str, ...] = Field(
        (),
        description="Patterns of the names of registered models that are followed, such as "
        "fraud-*; none: all.",
    )
    exclude: tuple[str, ...] = Field(
        (), description="Patterns of the names of registered models that are not followed."
    )
    model_tag: str = Field(
        "",
        description="NAME or NAME=VALUE: only registered models with this tag are followed.",
    )
    lease_ttl_s: float = Field(
        3.0, ge=1, description="A standby takes over when the leader was silent for so long."
    )
    flip_grace_s: float = Field(
        10.0, ge=0, description="Longest wait for gateways to leave a version before it is ended."
    )
    load_backoff_s: float = Field(
        5.0, gt=0, description="Wait after a failed load or download; each further one doubles it."
    )
    load_backoff_max_s: float = Field(300.0, gt=0, description="Longest such wait.")
    cache_dir: Path = Field(
        Path(".penstock/cache"),
        description="Folder of downloaded artifacts; workers on this machine may share it.",
    )
    cache_max_bytes: int = Field(
        50 * 1024**3, gt=0, description="Artifacts beyond this are evicted, but never needed ones."
    )
    download_timeout_s: float = Field(
        1800.0, gt=0, description="Longest download of one version before it is tried again."
    )
    parallel_downloads: int = Field(
        2, ge=1, description="Downloads at a time; each is a process that takes some 150 MB."
    )
    replica_overhead_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="Memory that a replica takes before its model."
    )
    memory_per_artifact_byte: float = Field(
        2.0, ge=0, description="Memory that a replica takes for each byte of its artifacts."
    )

    metrics_host: str = Field("127.0.0.1", description="Address of the metrics endpoint.")
    metrics_port: int = Field(
        -1, ge=-1, le=65535, description="Port of the metrics endpoint; 0: a free one; -1: none."
    )

    @model_validator(mode="after")
    def _one_registry(self) -> Self:
        if self.models is not None and "mlflow_uri" in self.model_fields_set:
            raise ValueError("follow a folder by --models or MLflow by --mlflow-uri, not both")
        return self

    def model_filter(self) -> ModelFilter:
        """Which models are followed."""
        return ModelFilter(self.include, self.exclude, self.model_tag)

    def policy(self) -> Policy:
        """The part that decisions need."""
        return Policy(
            stable_aliases=self.stable_aliases,
            tag_names=TagNames(self.tag_prefix),
            flip_grace_s=self.flip_grace_s,
            backoff_s=self.load_backoff_s,
            backoff_max_s=self.load_backoff_max_s,
            replica_overhead_bytes=self.replica_overhead_bytes,
            memory_per_artifact_byte=self.memory_per_artifact_byte,
        )

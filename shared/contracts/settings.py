"""Settings that several services have in common, from flags or `PENSTOCK_*` variables."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

NAMESPACE = "penstock"
Namespace = Annotated[str, Field(description="Prefix of all keys, to share a Redis.")]


class CommonSettings(BaseSettings):
    """What every long-running process takes. Flags win over the environment."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(redis|rediss|unix)://",
        description="State store: redis://, rediss:// or unix://.",
    )
    namespace: Namespace = NAMESPACE
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="One JSON object per line, or lines for people."
    )
    state_poll_s: float = Field(
        2.0, gt=0, description="How often the store is read when no change was announced."
    )
    report_ttl_s: float = Field(
        6.0, gt=0, description="A process that has not reported for so long counts as gone."
    )
    report_interval_s: float = Field(1.0, gt=0, description="How often a process reports itself.")


class StoredJobsSettings(BaseModel):
    """Where jobs and their data lie, which gateways and workers have to agree on."""

    blobs_url: str = Field(
        "",
        description="Where payloads and results of jobs lie that are too large for the state "
        "store: a folder that gateways and workers share, or a URL such as s3://BUCKET/PREFIX; "
        "empty: such jobs are refused, and a job with so large a result fails.",
    )
    jobs_bytes_max: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="Most bytes of payloads, results and outputs in the store, the same for "
        "gateways and workers. Beyond it a submit gets 503, and results go to blobs_url, or their "
        "jobs fail without one.",
    )

"""Settings that several services have in common, from flags or `PENSTOCK_*` variables."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommonSettings(BaseSettings):
    """What every long-running process takes. Flags win over the environment."""

    model_config = SettingsConfigDict(env_prefix="PENSTOCK_", extra="ignore")

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        pattern=r"^(redis|rediss|unix)://",
        description="State store: redis://, rediss:// or unix://.",
    )
    namespace: str = Field("penstock", description="Prefix of all keys, to share a Redis.")
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

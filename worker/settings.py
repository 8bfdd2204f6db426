"""Settings of a worker, from flags or `PENSTOCK_*` variables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from penstock.shared.contracts.ids import node_name
from penstock.shared.contracts.settings import CommonSettings, StoredJobsSettings
from penstock.worker.environments.installers import Installer


def default_worker_name() -> str:
    """A name that the first worker of this machine keeps over restarts."""
    return f"{node_name()}-worker-0"


BEATS_PER_LEASE = 3
"""Heartbeats that a lease lasts for at least: one may be late, and one lost."""


class WorkerSettings(CommonSettings, StoredJobsSettings):
    """What a worker agent takes beyond the common settings."""

    worker: str = Field(
        default_factory=default_worker_name,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        max_length=100,  # it begins the ZeroMQ identity of its replicas, 255 bytes at most
        description="This worker's name, kept over restarts; no two live workers share one.",
    )
    cache_dir: Path = Field(
        Path(".penstock/cache"),
        description="Folder of downloaded artifacts; workers on one machine may share it.",
    )
    cache_max_bytes: int = Field(
        50 * 1024**3, gt=0, description="Artifacts beyond this are evicted, but never needed ones."
    )
    environments_max: int = Field(
        8, ge=1, description="Isolated environments kept; more are evicted, but never used ones."
    )
    environment_installer: Installer = Field(
        "auto",
        description="What installs packages into isolated environments: uv where it is installed, "
        "and pip for what uv cannot do; or pip alone.",
    )
    handover_grace_s: float = Field(
        120.0,
        ge=0,
        description="After SIGTERM: how long replicas go on serving until other workers, if there "
        "are any, have loaded substitutes.",
    )
    drain_grace_s: float = Field(
        30.0, ge=0, description="How long a replica that is no longer placed may finish its work."
    )
    drain_timeout_s_max: float = Field(
        86_400.0,
        ge=0,
        description="Longest that penstock.drain_timeout_s of a model has a replica finish its "
        "jobs; whoever ends the worker by force must wait for so long.",
    )
    keys_dir: Path | None = Field(
        None,
        description="Folder with worker.secret and gateway.public, made by `penstock keys`: "
        "gateways at tcp endpoints are dialled with these keys only.",
    )
    fetch_timeout_s: float = Field(
        1800.0, gt=0, description="Longest download of one version before it is tried again."
    )
    load_timeout_s: float = Field(
        600.0, gt=0, description="A replica that is not ready after this long is killed: failed."
    )
    hung_after_s: float = Field(
        30.0, gt=0, description="A ready replica that is silent for so long is killed, restarted."
    )
    abandoned_grace_s: float = Field(
        30.0,
        ge=0,
        description="A replica whose batch goes on for so long after the last deadline of its "
        "calls is killed; penstock.execution_timeout_ms says how long one may run at all.",
    )
    error_details: Literal["message", "none"] = Field(
        "none",
        description="message: the answer to a request that made a model raise, run alone, tells "
        "the exception's type and first line, cut at 200 characters and without paths.",
    )
    job_lease_s: float = Field(
        15.0,
        gt=0,
        description="A job whose replica was not heard of for so long runs again elsewhere.",
    )
    job_heartbeat_s: float = Field(
        3.0, gt=0, description="How often replicas keep the leases of their jobs."
    )
    job_execution_s_max: float = Field(
        3600.0,
        gt=0,
        description="Longest execution of a job where penstock.execution_timeout_ms does not say "
        "how long (a client may allow its own more); then its replica is killed.",
    )
    job_cancel_grace_s: float = Field(
        2.0,
        ge=0,
        description="How long the execution of a canceled job may go on that is alone in its "
        "replica; then the replica is replaced.",
    )
    heartbeat_interval_s: float = Field(
        0.5, gt=0, description="How often replicas prove that their loop turns."
    )
    parallel_loads: int = Field(
        2, ge=1, description="Loads at a time; more would take the cores from what serves."
    )
    queue_rows_max: int = Field(
        4096, ge=1, description="Rows that may wait in one replica; more are refused."
    )
    allow_cpu_fallback: bool = Field(
        False, description="Accept the CPU where a GPU was asked for, instead of failing the load."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of the metrics endpoint.")
    metrics_port: int = Field(
        0, ge=-1, le=65535, description="Port of the metrics endpoint; 0: a free one; -1: none."
    )
    memory_bytes: int | None = Field(
        None, gt=0, description="Memory that replicas may use in all; default: the machine's."
    )

    @model_validator(mode="after")
    def _leases_outlast_heartbeats(self) -> WorkerSettings:
        if self.job_lease_s < BEATS_PER_LEASE * self.job_heartbeat_s:
            raise ValueError(
                f"--job-lease-s must be at least {BEATS_PER_LEASE} times --job-heartbeat-s"
            )
        return self

"""What can be set about jobs at a gateway."""

from __future__ import annotations

from pydantic import Field

from penstock.shared.contracts.settings import StoredJobsSettings

DAY_S = 86_400.0


class JobSettings(StoredJobsSettings):
    """Bounds and defaults of jobs; a part of the gateway's settings."""

    jobs_store_timeout_s: float = Field(
        8.0,
        gt=0,
        le=120,
        description="Longest wait for the job store in one request; then 503.",
    )
    jobs_blob_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Longest read or write of a large payload in one request; then 503.",
    )
    jobs_blobs_at_once_max: int = Field(
        32,
        gt=0,
        description="Most reads and writes of large payloads at once, each in a thread; more wait.",
    )
    jobs_retry_after_s: float = Field(
        1.0, gt=0, le=3600, description="Retry-After of answers about jobs that are not finished."
    )
    jobs_wait_s_max: float = Field(
        60.0,
        ge=0,
        le=3600,
        description="Longest that `wait` holds an answer back; more means this.",
    )
    jobs_watchers_max: int = Field(
        1024, gt=0, description="Most requests that wait for, or follow, a job; more get 429."
    )
    jobs_stream_s_max: float = Field(
        3600.0,
        gt=0,
        description="Longest stream of events on one connection; a client resumes where it ended.",
    )
    jobs_keepalive_s: float = Field(
        15.0, gt=0, le=600, description="A stream of events says something at least so often."
    )
    jobs_page_max: int = Field(
        200, gt=0, le=1000, description="Most jobs in one answer of the listing."
    )
    jobs_submit_bytes_max: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="Most bytes of inputs of submits that are under way; more get 429.",
    )
    jobs_result_bytes_max: int = Field(
        256 * 1024 * 1024,
        gt=0,
        description="Most bytes of results and outputs that are on their way to clients; more "
        "results get 429, streams of events wait, and a job is shown without its output.",
    )
    jobs_attempts_max: int = Field(
        3, gt=0, le=100, description="Executions of a job that may fail by accident; then it fails."
    )
    jobs_timeout_s_max: float = Field(
        DAY_S, gt=0, description="Longest `timeout` of one execution that a job may ask for."
    )
    jobs_ttl_s_max: float = Field(
        7 * DAY_S, gt=0, description="Longest `ttl_seconds` in the queue that a job may ask for."
    )
    jobs_result_ttl_s: float = Field(
        DAY_S, gt=0, description="How long a finished job is kept if it does not say."
    )
    jobs_result_ttl_s_max: float = Field(
        7 * DAY_S, gt=0, description="Longest `result_ttl_seconds` that a job may ask for."
    )
    jobs_dead_ttl_s: float = Field(
        7 * DAY_S, gt=0, description="How long a dead letter is kept, to be looked at or retried."
    )
    jobs_idempotency_s: float = Field(
        DAY_S,
        gt=0,
        description="How long an Idempotency-Key stands for its job after the job's end.",
    )
    jobs_tenant_header: str = Field(
        "",
        pattern=r"^[A-Za-z0-9-]{0,64}$",
        description="Header whose value keeps tenants' idempotency keys apart; none: all share.",
    )
    jobs_max: int = Field(
        100_000, gt=0, description="Most jobs of all states in the store; a submit then gets 503."
    )

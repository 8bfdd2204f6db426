"""Settings of a gateway, from flags or `PENSTOCK_*` variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from penstock.gateway.clients.origin_policy import read_hosts, read_origins
from penstock.gateway.clients.unread_answers import ANSWER_TIMEOUT_S, KEEP_ALIVE_S, LINGER_S
from penstock.gateway.jobs.keeper.settings import JobKeeperSettings
from penstock.gateway.jobs.settings import JobSettings
from penstock.gateway.memory.held_bytes import BYTES_MAX, SMALL_SHARE_BYTES
from penstock.shared.contracts.errors import ErrorCode

RETRY_ON = frozenset({ErrorCode.MODEL_ERROR, ErrorCode.OUT_OF_MEMORY})
"""Failures of an execution that may be tried again, if the operator says so."""


class GatewaySettings(JobKeeperSettings, JobSettings):
    """What `penstock gateway` takes."""

    gateway: str = Field("gateway-0", description="Name of this gateway; kept over restarts.")
    host: str = Field("127.0.0.1", description="Address to listen on for HTTP.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on for HTTP.")
    listen_fd: int | None = Field(
        None, description="An already bound listening socket to use instead, passed by a launcher."
    )
    allowed_hosts: str = Field(
        "",
        description="Names that this gateway goes by, with commas between them; a request for "
        "another gets 421. Loopback names and IP addresses always are; *: any name. Empty: none "
        "besides these where it listens on the loopback alone, any elsewhere.",
    )
    cors_origins: str = Field(
        "",
        description="Origins whose pages may use this gateway from a browser, as "
        "https://app.example.org, with commas between them; *: any page. Its own pages always may.",
    )
    keep_alive_s: float = Field(
        KEEP_ALIVE_S,
        gt=0,
        le=3600,
        description="How long a connection without a request is kept. Longer than clients and "
        "proxies keep theirs, or they send requests on connections that are just being closed.",
    )
    endpoint: str = Field(
        f"ipc:///tmp/penstock-{os.getuid()}/gateway-0.ipc",
        description="ZeroMQ endpoint that replicas dial: ipc://PATH or tcp://HOST:PORT.",
    )
    advertise_address: str = Field(
        "",
        description="How workers on other hosts reach a tcp endpoint: HOST (the port is the "
        "endpoint's) or HOST:PORT.",
    )
    keys_dir: Path | None = Field(
        None,
        description="Folder with gateway.secret and worker*.public, made by `penstock keys`: a "
        "tcp endpoint admits only workers with these keys.",
    )
    insecure_tcp: bool = Field(
        False,
        description="Allow a tcp endpoint without keys, to which anyone who can reach it may talk.",
    )
    metrics_port: int = Field(
        -1, ge=-1, le=65535, description="Port of this process's own metrics; 0: any, -1: none."
    )
    metrics_host: str = Field("127.0.0.1", description="Address for this process's own metrics.")
    queue_limit: int = Field(
        2048, gt=0, description="Most open calls per model; more are answered with 429."
    )
    queue_bytes_limit: int = Field(
        1024 * 1024 * 1024,
        gt=0,
        description="Most bytes of inputs of open calls, all models together; more get 429, and a "
        "model that has most of them does so before the others.",
    )
    held_bytes_max: int = Field(
        BYTES_MAX,
        ge=1024 * 1024,
        description="Most bytes that this gateway holds for clients: bodies that arrive, open "
        "calls and answers that are not read; what does not fit gets 429.",
    )
    held_small_share_bytes: int = Field(
        SMALL_SHARE_BYTES,
        ge=0,
        description="Of these, what only bodies and answers of up to 64 KiB may hold (half of them "
        "at most), so that large and slow ones cannot keep them out.",
    )
    answer_timeout_s: float = Field(
        ANSWER_TIMEOUT_S,
        gt=0,
        le=3600,
        description="A client that has not read its answer is cut off, unless it reads 256 KiB, or "
        "the rest, in each such time.",
    )
    linger_s: float = Field(
        LINGER_S,
        ge=0,
        le=60,
        description="How long what comes of a refused body is thrown away, so that its sender gets "
        "to read the answer before the connection ends.",
    )
    max_body_bytes: int = Field(
        64 * 1024 * 1024, gt=0, description="Largest request body; a larger one gets 413."
    )
    max_request_elements: int = Field(
        16 * 1024 * 1024,
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
        30.0, gt=0, le=3600, description="Longest that a request's body may take; then 408."
    )
    compress_min_bytes: int = Field(
        16 * 1024,
        ge=0,
        description="Smallest answer that is compressed for a client that accepts it.",
    )
    default_timeout_s: float = Field(
        30.0, gt=0, description="Deadline of a call when neither it nor its model states one."
    )
    max_timeout_s: float = Field(3600.0, gt=0, description="No call may wait longer than this.")
    replica_wait_s: float = Field(
        5.0,
        ge=0,
        description="How long a call waits when no replica is connected, before it gets 503: long "
        "enough for a crashed replica to come back.",
    )
    attempts_max: int = Field(8, gt=0, description="Most replicas that one call is tried on.")
    retry_on: str = Field(
        "",
        description="Failures after which a call is tried at another replica, with commas between "
        "them: model_error, out_of_memory. What a model answers to one try must be good for all.",
    )
    admission: Literal["adaptive", "off"] = Field(
        "adaptive",
        description="adaptive: a call that cannot be expected to be answered in time gets 429 at "
        "once; off: only the two limits above bound what waits.",
    )
    silence_s: float = Field(
        1.5, gt=0, description="A replica that was silent for so long is not sent calls."
    )
    ready_when: Literal["any", "all"] = Field(
        "any", description="Ready when any, or when all, deployed models have a ready replica."
    )
    startup_wait_s: float = Field(
        3.0, ge=0, description="Longest wait for routes and replicas before HTTP is served."
    )
    drain_wait_s: float = Field(
        0.0, ge=0, description="After SIGTERM: how long to say not-ready and accept connections."
    )
    drain_quiet_s: float = Field(
        1.0,
        ge=0,
        description="Then: a connection that brought no request for so long is closed; each "
        "request before that is answered with `Connection: close`.",
    )
    drain_grace_s: float = Field(
        30.0,
        ge=0,
        description="From SIGTERM to the end, whatever is owed then; who waits is told 503.",
    )

    @field_validator("retry_on")
    @classmethod
    def _known_failures(cls, text: str) -> str:
        read_codes(text)
        return text

    @field_validator("allowed_hosts")
    @classmethod
    def _names(cls, text: str) -> str:
        read_hosts(text)
        return text

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, text: str) -> str:
        read_origins(text)
        return text


def read_codes(text: str) -> frozenset[ErrorCode]:
    """The failures named in a setting such as `model_error, out_of_memory`.

    Raises:
        ValueError: if one of them cannot be tried again.
    """
    names = {name.strip() for name in text.split(",")} - {""}
    unknown = names - {code.value for code in RETRY_ON}
    if unknown:
        expected = ", ".join(sorted(code.value for code in RETRY_ON))
        raise ValueError(f"expected any of {expected}")
    return frozenset(ErrorCode(name) for name in names)

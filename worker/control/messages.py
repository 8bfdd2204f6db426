"""What an agent and its replicas tell each other over their socket pair: one JSON object a line.

    agent -> replica    Start (once, first)  Gateways  RouteChanged  Lower  DrainNow
    replica -> agent    Ready  LoadFailed  Found  Heartbeat  Drained

When the agent's end closes, the replica ends at once: replicas never outlive their agent.
Heartbeats come from the replica's own loop, so they stop while a model holds the interpreter. One
that is due is sent before the next batch begins, and so is one that takes back what the last one
told of a batch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from penstock.shared.contracts.deployment import Duty, ReplicaSettings
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.contracts.routing import ModelRoute

LINE_BYTES_MAX = 4 * 1024 * 1024
"""No control message is longer; findings about models with ten thousand columns fit well."""


class _Control(BaseModel):
    model_config = ConfigDict(frozen=True)


class GatewayAddress(_Control):
    """Where a gateway listens for replicas."""

    gateway: str
    endpoint: str


class JobsStart(_Control):
    """Where a replica leases jobs from, and by which rules.

    Attributes:
        redis_url: of the job store. namespace: of its keys. blobs_url: where large inputs and
        results lie; empty: nowhere. lease_s: how long a lease lasts without a heartbeat.
        heartbeat_s: how often leases are kept. execution_s_max: longest execution where neither job
        nor operator says how long. cancel_grace_s: how long an execution that nobody wants any more
        may go on. begun_fd: descriptor of the memory that tells the agent what began
        (`penstock.worker.jobs.begun`). store_bytes_max: most that the job store may hold; results
        beyond it are blobs.
    """

    redis_url: str
    namespace: str
    blobs_url: str = ""
    lease_s: float = 15.0
    heartbeat_s: float = 3.0
    execution_s_max: float = 3600.0
    cancel_grace_s: float = 2.0
    begun_fd: int | None = None
    store_bytes_max: int = 256 * 1024 * 1024


class Start(_Control):
    """Everything that a replica needs to begin.

    Attributes:
        key: its place in the placement.
        replica: its incarnation, also its ZeroMQ identity.
        model_path: folder with the MLflow model, read-only.
        settings: with `threads` resolved to a number.
        device: `cpu` or `cuda:N`, resolved.
        duty: whether it takes calls, jobs or both.
        interpreter: of the environment that it runs in; empty: the agent's own.
        allow_cpu_fallback: accept the CPU where a GPU was asked for.
        queue_rows_max: most rows that may wait in its queue; more are refused (Nack FULL).
        heartbeat_interval_s: how often it sends a Heartbeat.
        abandoned_grace_s: see `penstock.worker.session.run_limits`.
        error_details: whether callers are told what their request alone had the model raise.
        keys_dir: folder of the keys by which it proves itself to gateways over tcp.
        jobs: None: it runs no jobs.
        finding: what an earlier load of the revision found out here; None: nothing is known.
    """

    type: Literal["start"] = "start"
    key: str
    replica: ReplicaId
    worker: str
    model: str
    version: str
    revision: str
    model_path: str
    settings: ReplicaSettings
    device: str
    duty: Duty = "both"
    interpreter: str = ""
    allow_cpu_fallback: bool = False
    queue_rows_max: int = 4096
    heartbeat_interval_s: float = 0.5
    abandoned_grace_s: float = 30.0
    error_details: bool = False
    gateways: tuple[GatewayAddress, ...] = ()
    route: ModelRoute | None = None
    keys_dir: str | None = None
    jobs: JobsStart | None = None
    finding: Finding | None = None


class Gateways(_Control):
    """The gateways to be connected to, all of them; others are to be left."""

    type: Literal["gateways"] = "gateways"
    gateways: tuple[GatewayAddress, ...]


class RouteChanged(_Control):
    """The newest route of the replica's model, for it to announce."""

    type: Literal["route"] = "route"
    route: ModelRoute


class Lower(_Control):
    """Less is known of the model than when the replica began: it is to be held to that.

    A replica that is still loading may ignore it; it is told again once it is ready.
    """

    type: Literal["lower"] = "lower"
    finding: Finding


class DrainNow(_Control):
    """Announce draining, finish what was accepted, answer, and end.

    Attributes:
        grace_s: how long until the replica is ended by force: a job that still runs shortly before
            is given back; None: it will not be.
    """

    type: Literal["drain"] = "drain"
    grace_s: float | None = None


class Ready(_Control):
    """Loaded and warmed up.

    Attributes:
        provider: what executes the model in truth, such as `CPUExecutionProvider`.
        finding: what the model is.
        fresh: whether this load found that out; False: it was told by `Start.finding`.
        unmet: which of its requirements are not met; empty: none.
    """

    type: Literal["ready"] = "ready"
    provider: str
    finding: Finding
    fresh: bool = True
    unmet: str = ""


class Found(_Control):
    """The model allows less than was thought, as an execution showed, or another replica.

    It is to be remembered, unless it was by chance.
    """

    type: Literal["found"] = "found"
    finding: Finding


class LoadFailed(_Control):
    """The model cannot be loaded; the replica ends.

    Attributes:
        invalid: True if no retry can help (no signature, an unknown format).
    """

    type: Literal["load_failed"] = "load_failed"
    message: str
    invalid: bool = False


class Heartbeat(_Control):
    """The loop turns. Counters are totals since the replica's start.

    Attributes:
        batch_ends_in_s: how long the batch that runs may go on still; None: none does, or it has
            begun since the heartbeat before.
        dispatched: batches by the reason of their release (idle, full, deadline, waited, jobs).
        batch_sizes: batches by size class, as in `penstock.worker.session.counters.Counters`.
    """

    type: Literal["heartbeat"] = "heartbeat"
    queued_rows: int = 0
    executing_rows: int = 0
    batch_ends_in_s: float | None = None
    requests: int = 0
    failures: int = 0
    expired: int = 0
    cancelled: int = 0
    rows: int = 0
    batches: int = 0
    infer_us: int = 0
    queue_us: int = 0
    copied_bytes: int = 0
    dispatched: dict[str, int] = {}
    batch_sizes: dict[int, int] = {}


class Drained(_Control):
    """Everything accepted was answered; the replica ends.

    Attributes:
        replace: nobody asked it to: it ends to stop an execution that nobody wants any more, and is
            to be replaced at once.
    """

    type: Literal["drained"] = "drained"
    replace: bool = False


ToReplica = Annotated[
    Start | Gateways | RouteChanged | Lower | DrainNow, Field(discriminator="type")
]
ToAgent = Annotated[Ready | LoadFailed | Found | Heartbeat | Drained, Field(discriminator="type")]

_TO_REPLICA: TypeAdapter[ToReplica] = TypeAdapter(ToReplica)
_TO_AGENT: TypeAdapter[ToAgent] = TypeAdapter(ToAgent)


def encode_line(message: ToReplica | ToAgent) -> bytes:
    """A message as one line."""
    return message.model_dump_json().encode() + b"\n"


def decode_for_replica(line: bytes) -> ToReplica:
    """A line from the agent; raises `pydantic.ValidationError` for anything else."""
    return _TO_REPLICA.validate_json(line)


def decode_for_agent(line: bytes) -> ToAgent:
    """A line from a replica; raises `pydantic.ValidationError` for anything else."""
    return _TO_AGENT.validate_json(line)

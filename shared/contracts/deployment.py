"""Desired and actual state, as documents in the state store.

Desired: registry_sync writes one `Deployment` (what to load, and the placement) beside the routing
table. Actual: each worker and each gateway writes a report on itself that expires when it does not
renew it.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import Literal

import orjson
from pydantic import Field

from penstock.shared.contracts.document import Document
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.contracts.routing import HEDGE_BUDGET, HedgePolicy, JobsPolicy
from penstock.shared.contracts.tensor_spec import TensorSpec

Swap = Literal["surge", "replace"]

Batching = Literal["auto", "on", "off"]
"""Whether requests share executions: on evidence (`auto`), on the operator's word, or never."""

WarmUpPolicy = Literal["auto", "off"]
"""Whether a model's code may be run before its first request."""

Scoring = Literal["", "rest", "rows", "all"]
"""Which bodies in MLflow's words go to the model as they are: none; those of which a gateway makes
no tensors (`rest`); these, while replicas word the answers to all others (`rows`); all.
"""

Returns = Literal["", "array", "records", "object"]
"""What a model returns, as JSON has it: lists of numbers, an object for each row, or an object of
lists; empty: not known, or something else."""

Duty = Literal["both", "calls", "jobs"]
"""What a replica takes."""

FOLDER_SCHEME = "folder:"
"""Of artifacts that lie in a folder which every node mounts at the same path."""


class ParameterSpec(Document):
    """A value that a request may state beside its inputs; `datatype` as tensors have it."""

    name: str
    datatype: str


class ModelInterface(Document):
    """What a loaded model takes and gives, as its replica found it.

    Attributes:
        inputs, outputs: tensor specs; -1 leads every shape of a model that batches.
        max_batch_size: most rows in one execution of requests that share it; a request of more is
            executed in pieces of so many. 0 if the model is not batched: each request is one
            execution, of whatever shape its inputs allow.
        mlflow_version: installed where the model was loaded; empty: not told, or none is.
        row_inputs: sets of inputs with which rows were found not to depend on each other; a request
            with others, or with parameters that the model knows, is never executed in pieces. None:
            any set, on the operator's word.
        platform: Triton's name of the runtime, such as `onnxruntime_onnx`.
        parameters: values that requests may state beside their inputs; others are ignored.
        streams: whether it can give an answer in parts; a job gets it that way.
        table: the inputs are columns of one table, so that all have as many rows, batched or not.
        open_inputs: `inputs` is empty since nothing says what the model takes: names, datatypes and
            shapes come with each request.
        scoring: which bodies of MLflow's scoring server its replicas read themselves.
        returns: the form of what it returned to all that it was tried with.
        keys: the members of the objects in that form, for each output in order.
        kinds: of the columns in it, as the replica's library has them.
        exact: whether tensors of the outputs carry all of it, as long as that form stays.
        example: a request to MLflow's scoring server, JSON, that the model's author logged with it;
            empty: none, or a long one.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    platform: str
    parameters: tuple[ParameterSpec, ...] = ()
    streams: bool = False
    table: bool = False
    open_inputs: bool = False
    scoring: Scoring = ""
    returns: Returns = ""
    keys: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    exact: bool = False
    example: str = ""
    row_inputs: tuple[tuple[str, ...], ...] | None = None
    mlflow_version: str = ""

    @cached_property
    def inputs_by_name(self) -> dict[str, TensorSpec]:
        """The inputs; not to be changed."""
        return {spec.name: spec for spec in self.inputs}


class ArtifactFile(Document):
    """One file of a model version; `path` is relative and never leaves the model's folder."""

    path: str
    size: int
    sha256: str


class ArtifactManifest(Document):
    """All files of a model version, sorted by path.

    Attributes:
        streams: whether they say that the model can give an answer in parts; `digest` leaves it
            out, since the files have it.
    """

    files: tuple[ArtifactFile, ...]
    streams: bool = False

    @property
    def digest(self) -> str:
        """The content's name in the cache: sha256 over the files' paths, sizes and digests."""
        rows = [[file.path, file.size, file.sha256] for file in self.files]
        return hashlib.sha256(orjson.dumps(rows)).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)


class ArtifactSource(Document):
    """Where a version's artifacts come from.

    Attributes:
        uri: what MLflow's client downloads, such as `models:/digits/2`; or `folder:` and an
            absolute path, which is copied.
        tracking_uri: the MLflow server that resolves it; empty for a folder.
        identity: what tells a version from another that was deleted and had the same name, and a
            folder's content from what it was before; empty if the registry does not say.
    """

    uri: str
    tracking_uri: str
    identity: str = ""

    @property
    def folder(self) -> str | None:
        """The path of the folder that is to be copied; None for what MLflow resolves."""
        return self.uri.removeprefix(FOLDER_SCHEME) if self.uri.startswith(FOLDER_SCHEME) else None


class ReplicaSettings(Document):
    """Settings that a replica needs when it starts; a change of them makes a new revision.

    Attributes:
        max_batch_size: most rows in one execution.
        max_queue_delay_ms: longest an idle runtime waits for a fuller batch; 0: never.
        device: `auto`, `cpu` or `cuda:N`.
        threads: threads of the runtime, or None for the node's cores / local replicas.
        environment: `inherit` the agent's packages, or `isolated`: those that the model asks for.
        execution_timeout_ms: a replica that executes one batch for longer is killed; None: it may
            go on for as long as anybody may be waiting for it.
        job_concurrency: most jobs that a replica holds at a time; None: two batches of them.
        job_slice_ms: longest that a batch with jobs in it is to take, unless it is a single job;
            None: about two executions of one row.
        drain_timeout_s: how long a job that runs may hold up the end of a replica that drains;
            None: as long as the worker lets any replica drain.
        jobs: whether the version takes calls, jobs or both; None: both.
        batching: whether requests share executions; None: `auto`.
        warmup: whether the model may be executed as it loads; None: `auto`.
        trial: counts how often the operator asked for a new trial of the model; None: never.
    """

    max_batch_size: int = 32
    max_queue_delay_ms: float = 0.0
    device: str = "auto"
    threads: int | None = None
    environment: Literal["inherit", "isolated"] = "inherit"
    execution_timeout_ms: float | None = None
    job_concurrency: int | None = None
    job_slice_ms: float | None = None
    drain_timeout_s: float | None = None
    jobs: JobsPolicy | None = None
    batching: Batching | None = None
    warmup: WarmUpPolicy | None = None
    trial: int | None = None


class InPlaceSettings(Document):
    """Settings that what runs can follow; a change of them makes no new revision.

    Attributes:
        replicas: how many in all, or `each`: one per matching worker.
        job_replicas: how many more, for jobs alone, if it streams and takes both calls and jobs.
        timeout_ms, queue_timeout_ms, hedge, hedge_budget: see
            `penstock.shared.contracts.routing.VersionRoute`.
        swap: whether what serves ends once this is loaded, or before.
    """

    replicas: int | Literal["each"] = 1
    job_replicas: int = 1
    timeout_ms: float | None = None
    queue_timeout_ms: float | None = None
    hedge: HedgePolicy = "auto"
    hedge_budget: float = HEDGE_BUDGET
    swap: Swap = "surge"


class Phase(StrEnum):
    """What registry_sync wants of a revision."""

    LOADING = "loading"  # place it; routed once enough replicas are ready
    SERVING = "serving"  # routed
    DRAINING = "draining"  # unrouted; stays placed until all gateways acknowledged that
    FAILED = "failed"  # not placed; tried again at `retry_at`


class RevisionDeployment(InPlaceSettings):
    """One revision of one version that is to exist, with the settings that it follows in place.

    Attributes:
        memory_bytes: estimate of what one replica takes, for placement. changed_at: wall-clock time
        at which the phase began. wished_at: wall-clock time since which it is to serve; 0: written
        before this was noted. drain_generation: gateways that acknowledged it no longer route here
        (phase DRAINING). failures: loads that failed in a row. retry_at: wall-clock time of the
        next try (phase FAILED); None: not before a change. message: for the operator.
    """

    model: str
    version: str
    revision: str
    source: ArtifactSource
    manifest: ArtifactManifest
    settings: ReplicaSettings
    memory_bytes: int = 0
    phase: Phase = Phase.LOADING
    changed_at: float = 0.0
    wished_at: float = 0.0
    drain_generation: int = 0
    failures: int = 0
    retry_at: float | None = None
    message: str = ""


class ReplicaPlacement(Document):
    """One replica on one worker; `key` names the place, not the process life in it.

    Attributes:
        duty: what the replica takes.
    """

    key: str
    model: str
    version: str
    revision: str
    worker: str
    device: str
    duty: Duty = "both"


class Deployment(Document):
    """All that registry_sync wants to exist.

    Attributes:
        revisions: by revision id.
        placement: which worker holds which replica.
        serial: grows with every write.
        workers: incarnations of the workers that were known when the placement was decided: it says
            nothing about others. None: written before this was noted.
    """

    revisions: dict[str, RevisionDeployment] = Field(default_factory=dict)
    placement: tuple[ReplicaPlacement, ...] = ()
    serial: int = 0
    workers: tuple[str, ...] | None = None


class ReplicaState(StrEnum):
    """Where a replica is in its life, as its agent sees it."""

    FETCHING = "fetching"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    BACKOFF = "backoff"  # it ended and will be started again
    FAILED = "failed"  # its model cannot be loaded here
    INVALID = "invalid"  # its model can never be served; a retry cannot help


class ReplicaReport(Document):
    """One replica, as its agent sees it.

    Attributes:
        message: what is wrong with it; empty if nothing is.
        note: what the operator may want to know of a model that is served all the same, such as why
            it is not batched.
    """

    key: str
    replica: ReplicaId
    model: str
    version: str
    revision: str
    state: ReplicaState
    device: str
    duty: Duty = "both"
    pid: int | None = None
    provider: str = ""
    queued_rows: int = 0
    executing_rows: int = 0
    restarts: int = 0
    message: str = ""
    note: str = ""


class WorkerReport(Document):
    """A worker: what it has to offer, and what runs on it.

    Attributes:
        worker: its name, kept over restarts.
        incarnation: this life of it.
        devices: `cpu`, then `cuda:N` for each GPU.
        memory_bytes: memory that replicas may use in all.
        device_memory_bytes: of each GPU, as far as it is known.
        deployment_serial: the deployment that it last acted on.
        draining: it leaves and takes nothing new.
    """

    worker: str
    incarnation: str
    node: str
    pid: int
    devices: tuple[str, ...]
    cores: int
    memory_bytes: int
    device_memory_bytes: dict[str, int] = Field(default_factory=dict)
    deployment_serial: int = 0
    draining: bool = False
    metrics_port: int = 0
    replicas: tuple[ReplicaReport, ...] = ()


class VersionStatus(Document):
    """What became of a version, in the words that the registry shows.

    Attributes:
        gone: it serves, and the registry has it no more.
    """

    model: str
    version: str
    status: str
    message: str = ""
    gone: bool = False


class SyncReport(Document):
    """A registry_sync daemon, leading or standing by; `sync` is this life of it.

    Attributes:
        statuses: of all versions that somebody asked for, if it leads and has seen the registry.
        statuses_left_out: how many more there are.
        troubles: what does not work now, such as the registry, in sentences.
    """

    sync: str
    node: str
    pid: int
    metrics_port: int = 0
    statuses: tuple[VersionStatus, ...] = ()
    statuses_left_out: int = 0
    troubles: tuple[str, ...] = ()


class GatewayReport(Document):
    """A gateway: where replicas dial it, and what it has taken in.

    Attributes:
        endpoint: ZeroMQ endpoint.
        generation: routing generation that it acts on.
        ready: replicas that it hears and that do not drain, by revision id; those for jobs alone
            are among them.
    """

    gateway: str
    incarnation: str
    node: str
    pid: int
    endpoint: str
    url: str = ""
    metrics_port: int = 0
    generation: int = 0
    ready: dict[str, int] = Field(default_factory=dict)

"""A call as the protocols hand it to the service, and its answer: no HTTP here, no ZeroMQ."""

from __future__ import annotations

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.wire.messages import PRIORITY_DEFAULT, Parameters
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Tensor


@record
class InferenceCall:
    """One validated request for an inference.

    Attributes:
        model: name of a registered model.
        version: the version it is pinned to, or None for the traffic policy's choice.
        inputs: tensors that fit the model's interface.
        outputs: names of the outputs asked for; empty means all.
        parameters: what the model is to be given beside its inputs.
        priority: 1 (first) to 9 (last).
        timeout_s: what the request allows, or None for the model's or the gateway's default.
        traceparent: trace context, as `penstock.shared.process.tracing` has it; empty: none.
        piece: it is a part of a request that was let in as a whole.
    """

    model: str
    version: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    parameters: Parameters = ()
    priority: int = PRIORITY_DEFAULT
    timeout_s: float | None = None
    traceparent: str = ""
    piece: bool = False


@record
class InferenceAnswer:
    """What a call came to.

    Attributes:
        model, version: who answered.
        outputs: in the order asked for, or else in the interface's order.
        queue_s: time in the gateway and in the replica's queue, in seconds.
        infer_s: execution time of its batch, in seconds.
        attempts: how many replicas were tried.
        batch_rows: rows in its batch, its own among them; 0 if that is not known.
        hedged: `won` if a hedge answered, `lost` if one was sent and the other attempt answered
            first; empty without one.
        before_s: time before the attempt was sent that answered, in seconds; a part of `queue_s`.
    """

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    queue_s: float
    infer_s: float
    attempts: int
    batch_rows: int = 0
    hedged: str = ""
    before_s: float = 0.0


@record
class ModelMetadata:
    """A model that can be called.

    Attributes:
        versions: versions that can be reached, the default first.
        interface: of the version asked for, or of the default one.
        only_jobs: whether that version's replicas take jobs and no calls.
    """

    model: str
    versions: tuple[str, ...]
    interface: ModelInterface
    only_jobs: bool = False


@record
class DeployedModel:
    """A model that this gateway has a route for.

    Attributes:
        versions: each version that can be reached, the default first, and whether a replica of it
            can be called now.
        reason: why nothing can be reached; empty otherwise.
    """

    model: str
    versions: tuple[tuple[str, bool], ...]
    reason: str

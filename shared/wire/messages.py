"""Messages between a gateway and a replica.

    gateway -> replica    Probe  Request  Proceed  Cancel  Drain
    replica -> gateway    Hello  Load  SuspectTurn  Alone  Chunk  Final  Nack  Drain

An attempt is named by an integer that its gateway chose; together with the gateway's incarnation,
which every envelope carries, that is unique for ever. No message carries a clock reading: a
request carries what is left of its deadline as a budget in microseconds.
"""

from __future__ import annotations

from dataclasses import field
from enum import IntEnum
from typing import TypeAlias

from penstock.shared.contracts.errors import ErrorCode
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Tensor

Scalar: TypeAlias = str | int | float | bool | None
Parameters: TypeAlias = tuple[tuple[str, Scalar], ...]
"""Parameters of a request as pairs sorted by name: hashable, so that they can key a bucket."""

WORDED: tuple[str, Scalar] = ("\0worded", True)
"""The parameter, the first one, of a request whose answer the replica is to word as MLflow's
scoring server does, since tensors could not say all of it. No client can state it."""

PRIORITY_HIGHEST = 1
PRIORITY_DEFAULT = 5
PRIORITY_LOWEST = 9


def is_worded(parameters: Parameters) -> bool:
    """Whether a request's answer is to be worded by the replica."""
    return len(parameters) > 0 and parameters[0] == WORDED


class NackReason(IntEnum):
    """Why a replica refused an attempt before it started it."""

    DRAINING = 1
    FULL = 2
    SUSPECT_BUSY = 3


@record
class Probe:
    """Asks a replica how it does, and who it is if the gateway does not know.

    Attributes:
        known: answered by Load if so, else by Hello. A gateway that gave a replica up, and then
            hears from it again, does not know it; what it had sent before, it has given up too.
    """

    known: bool = False


@record
class Request:
    """One attempt of one call.

    Attributes:
        attempt_id: chosen by the gateway.
        budget_us: what is left until the call's deadline, in microseconds.
        priority: 1 (first) to 9 (last).
        suspect: the call was in a replica that died; it must run alone.
        traceparent: trace context, as `penstock.shared.process.tracing` has it; empty: none.
        inputs: validated tensors, all with the same leading dimension if the model batches.
        outputs: names of the outputs asked for; empty means all.
        parameters: what the model is to be given beside its inputs.
        queue_budget_us: what is left of the time that the call may wait before it is executed, in
            microseconds; 0: as long as its deadline allows.
    """

    attempt_id: int
    budget_us: int
    inputs: tuple[Tensor, ...]
    priority: int = PRIORITY_DEFAULT
    suspect: bool = False
    traceparent: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Parameters = ()
    queue_budget_us: int = 0


@record
class SuspectTurn:
    """The replica is about to execute a suspect, alone, and waits to be told to proceed.

    The gateway knows from then on that a loss of the replica is that attempt's doing, and nobody
    else's: word that was merely sent before a crash might not have left.
    """

    attempt_id: int


@record
class Alone:
    """The replica executes a suspect of another gateway now, and nothing else; or has done so.

    If it is lost meanwhile, what it holds of this gateway is innocent.
    """

    active: bool


@record
class Proceed:
    """The gateway has taken note of a suspect's turn: execute it."""

    attempt_id: int


@record
class Cancel:
    """The gateway no longer wants an attempt's answer."""

    attempt_id: int


@record
class Drain:
    """The sender takes or sends nothing new from now on; what is in flight will be answered."""


@record
class Hello:
    """A replica that is ready introduces itself.

    Attributes:
        replica: by which it is known. worker: the agent that spawned it. model, version,
        revision: what it has loaded. interface: JSON of
        `penstock.shared.contracts.deployment.ModelInterface`. route: JSON of the newest
        `penstock.shared.contracts.routing.ModelRoute` that it was told; empty if none. takes_calls:
        False for a replica that is there for jobs alone; it is sent no attempts.
    """

    replica: ReplicaId
    worker: str
    model: str
    version: str
    revision: str
    interface: bytes
    route: bytes
    takes_calls: bool = True


@record
class Load:
    """How busy a replica is.

    Attributes:
        queued_rows: rows that wait in its queue, from all gateways.
        executing_rows: rows in the batch that runs now.
        row_us: recent execution time per row of a full batch, in microseconds; 0 if nothing was
            executed yet.
        executing: attempts of the gateway that is told, in a batch that has run for long; empty
            if none has.
    """

    queued_rows: int
    executing_rows: int
    row_us: int
    executing: tuple[int, ...] = ()


@record
class Chunk:
    """A part of a streamed answer; more follows."""

    attempt_id: int
    sequence: int
    outputs: tuple[Tensor, ...]


@record
class Failure:
    """Why an attempt failed, in words fit for the caller.

    Attributes:
        cause: what was raised, for the operator. It stays with a job; no gateway is told.
    """

    code: ErrorCode
    message: str
    cause: str = ""


@record
class Final:
    """The end of an attempt that was started, or that expired in the queue.

    Attributes:
        outputs: the answer; empty if it failed or if all of it came in chunks.
        failure: why it failed, or None.
        queue_us: time in the replica's queue, in microseconds.
        infer_us: execution time of its batch, in microseconds.
        batch_rows: rows in that batch; 0 if it was never executed.
    """

    attempt_id: int
    outputs: tuple[Tensor, ...] = ()
    failure: Failure | None = None
    queue_us: int = 0
    infer_us: int = 0
    batch_rows: int = 0


@record
class Nack:
    """An attempt was refused before it started; it can safely run elsewhere."""

    attempt_id: int
    reason: NackReason


Message: TypeAlias = (
    Probe
    | Request
    | Proceed
    | Cancel
    | Drain
    | Hello
    | Load
    | SuspectTurn
    | Alone
    | Chunk
    | Final
    | Nack
)


@record
class Envelope:
    """All that one peer has to tell another in one turn of its loop.

    Attributes:
        gateway: incarnation of the gateway that the messages come from or answer to.
        messages: in order.
    """

    gateway: str
    messages: tuple[Message, ...] = field(default=())

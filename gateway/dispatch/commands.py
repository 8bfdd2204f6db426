"""What dispatch wants done; `penstock.gateway.inference.service` does it."""

from __future__ import annotations

from typing import TypeAlias

from penstock.gateway.inference.types import InferenceAnswer
from penstock.shared.contracts.errors import PenstockError
from penstock.shared.wire.messages import Cancel, Chunk, Proceed, Request
from penstock.shared.wire.records import record


@record
class SendRequest:
    """Send an attempt to a replica, the call's first or a later one; `Dispatch.refused` if it
    cannot be sent."""

    replica: str
    request: Request
    number: int = 1


@record
class SendProceed:
    """Tell a replica to execute the suspect whose turn has come."""

    replica: str
    proceed: Proceed


@record
class SendProbe:
    """Ask a replica how it does, though it is not yet time to."""

    replica: str


@record
class SendCancel:
    """Tell a replica that nobody waits for an attempt any more."""

    replica: str
    cancel: Cancel


@record
class Answered:
    """The call was executed."""

    call_id: int
    answer: InferenceAnswer


@record
class CallFailed:
    """The call came to nothing."""

    call_id: int
    error: PenstockError


@record
class Streamed:
    """A part of the call's answer."""

    call_id: int
    chunk: Chunk


Command: TypeAlias = (
    SendRequest | SendProceed | SendProbe | SendCancel | Answered | CallFailed | Streamed
)

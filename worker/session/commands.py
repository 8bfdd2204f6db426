"""What a session has its shell do."""

from __future__ import annotations

from typing import TypeAlias

from penstock.shared.wire.messages import Message
from penstock.shared.wire.records import record
from penstock.worker.session.batching import Item


@record
class Send:
    """Tell a gateway something."""

    link: str
    message: Message


@record
class Execute:
    """Run a batch; its outcome comes back through `executed`.

    Attributes:
        reason: a `DispatchReason`, or `again` (part of a batch that failed), or `suspect`.
        short: it takes so little time that the loop may run it itself.
    """

    items: tuple[Item, ...]
    reason: str
    short: bool = False


@record
class End:
    """The replica has nothing left to do here.

    Attributes:
        fatal: it must not be used again.
        replace: it ends to stop what nobody wants, and another is to take its place at once.
    """

    fatal: bool
    replace: bool = False


@record
class Misfit:
    """Outputs had other rows than went in: the model is not to be batched from now on."""

    reason: str


@record
class OutOfMemory:
    """Memory ran out: requests share smaller executions from now on.

    Attributes:
        rows: of the execution that failed.
        rows_together: most rows of one that requests share.
    """

    rows: int
    rows_together: int


Command: TypeAlias = Send | Execute | End | Misfit | OutOfMemory

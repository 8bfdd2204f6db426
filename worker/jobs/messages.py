"""What a replica's loop and its job port tell each other. Pure.

    port -> loop    Hinted  Leased  Fetched  Gone
    loop -> port    Pull  Began  Ended  Leave

Jobs have numbers within a replica, which stand in the place of attempt ids: to the session, jobs
are what comes over the link `JOBS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from shared import messages
from shared.messages import Request
from shared.records import record

JOBS: Final = ""
"""The link that jobs come over; gateways have names."""


@record
class Job:
    """A leased job with its input.

    Attributes:
        number: names it in this replica.
        request: what to execute; `suspect` if a replica died with it.
        timeout_s: longest execution that its client wants; None: it did not say.
        id: names it everywhere.
    """

    number: int
    request: Request
    timeout_s: float | None = None
    id: str = ""


# From the port


@record
class Hinted:
    """There may be something to lease."""


@record
class Leased:
    """The answer to a `Pull`.

    Attributes:
        numbers: of all jobs that are held now because of it.
        jobs: those whose inputs are here; the others' come as `Fetched`.
        more: whether the queue may hold more than was asked for.
        suspects_waiting: whether a suspect was passed over, since it wants an idle replica.
    """

    numbers: Sequence[int]
    jobs: Sequence[Job]
    more: bool
    suspects_waiting: bool


@record
class Fetched:
    """The input of a job that was held before."""

    job: Job


@record
class Gone:
    """Nobody wants this job's result any more: it was canceled, or its lease is lost."""

    number: int


FromPort: TypeAlias = Hinted | Leased | Fetched | Gone


# To the port


@record
class Pull:
    """Lease up to so many jobs; `idle` if nothing runs here, so that a suspect may come."""

    most: int
    idle: bool


@record
class Began:
    """These jobs are being executed, which is expected to take so long (0: not known).

    Attributes:
        at: since when, in monotonic time.
    """

    numbers: Sequence[int]
    expected_s: float
    at: float


@record
class Ended:
    """These jobs were answered, or refused before they began; at a monotonic time."""

    answers: Sequence[messages.Final | messages.Nack]
    at: float


@record
class Leave:
    """Give back what is held, tell the store all that it is owed, and end."""


ToPort: TypeAlias = Pull | Began | Ended | Leave

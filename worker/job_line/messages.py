"""What a replica's loop and its job port tell each other. Pure.

    loop -> port    Begin (once, first)  Pull  Began  Told  Ended  Leave
    port -> loop    Hinted  Leased  InputFetched  Gone  Alive

Jobs have numbers within a replica, which stand in the place of attempt ids: to the session, jobs
are what comes over the link `JOBS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.ids import ReplicaId
from penstock.shared.jobs.answers import Progress
from penstock.shared.jobs.record import Content
from penstock.shared.wire import messages
from penstock.shared.wire.messages import Request
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer

JOBS: Final = ""
"""The link that jobs come over; gateways have names."""

Output: TypeAlias = tuple[Content, Buffer]
"""What a model that is being executed yielded."""


@record
class LeaseTerms:
    """Whose jobs are leased, by whom, how long without a heartbeat; how much the store holds."""

    model: str
    revision: str
    holder: ReplicaId
    lease_s: float
    heartbeat_s: float
    store_bytes_max: int


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
        jobs: those whose inputs are here; the others' come as `InputFetched`.
        more: whether the queue may hold more than was asked for.
        suspects_waiting: whether a suspect was passed over, since it wants an idle replica.
    """

    numbers: Sequence[int]
    jobs: Sequence[Job]
    more: bool
    suspects_waiting: bool


@record
class InputFetched:
    """The input of a job that was held before."""

    job: Job


@record
class Gone:
    """Nobody wants this job's result any more: it was canceled, or its lease is lost."""

    number: int


@record
class Alive:
    """The port's process runs: its first word, and said whenever nothing else was for a while."""


FromPort: TypeAlias = Hinted | Leased | InputFetched | Gone | Alive


@record
class PortLost:
    """The port died, and with it all that it knew: nobody wants what was leased before this."""


# To the port


@record
class Begin:
    """The model is loaded: begin to lease.

    Attributes:
        version: of the model, for people.
        redis_url, namespace: of the job store.
        blobs_url: where large inputs and results lie; empty: nowhere.
        interface: of the model.
        numbers_after: jobs are to have higher numbers than this.
        inherits: another port led this replica's jobs, and died.
    """

    terms: LeaseTerms
    version: str
    redis_url: str
    namespace: str
    blobs_url: str
    interface: ModelInterface
    numbers_after: int
    inherits: bool


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
class Told:
    """A model that is being executed said something."""

    number: int
    said: Progress | Output


@record
class Ended:
    """These jobs were answered, or refused before they began; at a monotonic time.

    Both sides' monotonic clocks are the host's, so times may be told.
    """

    answers: Sequence[messages.Final | messages.Nack]
    at: float


@record
class Leave:
    """Give back what is held, tell the store all that it is owed, and end."""


ToPort: TypeAlias = Begin | Pull | Began | Told | Ended | Leave

"""Moves inputs and results that are too large for the job store, on a thread of its own.

Storage that fails is asked again for a while: an attempt that ended because of it would only have
the next one fail, too. Previous and next stop: `worker.jobs.port`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeAlias, TypeVar

from shared.errors import ErrorCode, PenstockError, StateStoreError
from shared.jobs.record import Content
from shared.messages import Failure
from shared.records import record
from shared.tensors import Buffer

TRIES = 6
"""Of each transfer; with the pauses between them, about ten seconds."""

PAUSE_S = 0.3
"""Before the second try; it doubles from there."""

NO_BLOBS = Failure(
    ErrorCode.PAYLOAD_TOO_LARGE,
    "the job's data is more than the job store keeps, and the worker has no blob store (blobs_url)",
)

NO_ROOM = Failure(
    ErrorCode.STORE_FULL,
    "the job store has no room for the result, and the worker has no blob store (blobs_url)",
)

Answer = TypeVar("Answer")


class Blobs(Protocol):
    """Of `shared.jobs.blobs.BlobStore`, what is used here."""

    def put(self, job_id: str, data: Buffer) -> str:
        """Keep bytes; their name."""
        ...

    def get(self, name: str) -> bytes:
        """The bytes of that name."""
        ...


@record
class Loaded:
    """An input came, or why it cannot be had."""

    number: int
    data: bytes | Failure


@record
class Stored:
    """A result of that size has a name now, or why it cannot be kept."""

    number: int
    size: int
    name: str | Failure


@record
class OutputStored:
    """An output of a stream is a blob now."""

    number: int
    content: Content


Carried: TypeAlias = Loaded | Stored | OutputStored


class BlobCarrier:
    """See the module's docstring.

    Args:
        blobs: where they lie; None: nowhere, and every transfer fails.
        deliver: takes what was done; called by the carrier's thread.
    """

    def __init__(self, blobs: Blobs | None, deliver: Callable[[Carried], None]) -> None:
        self._blobs = blobs
        self._deliver = deliver
        self._tasks: queue.SimpleQueue[Callable[[], Carried | None]] = queue.SimpleQueue()

    @property
    def has_blobs(self) -> bool:
        """Whether there is a place for blobs."""
        return self._blobs is not None

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, name="blobs", daemon=True).start()

    def load(self, number: int, name: str) -> None:
        """Get a job's input."""
        self._tasks.put(lambda: Loaded(number, self._try(lambda blobs: blobs.get(name))))

    def store(self, number: int, job_id: str, data: bytes) -> None:
        """Keep a job's result."""
        size = len(data)
        self._tasks.put(
            lambda: Stored(number, size, self._try(lambda blobs: blobs.put(job_id, data)))
        )

    def store_output(self, number: int, job_id: str, media_type: str, data: bytes) -> None:
        """Keep an output of a stream; where that fails, it is not told."""

        def store() -> Carried | None:
            name = self._try(lambda blobs: blobs.put(job_id, data))
            if isinstance(name, Failure):
                return None
            return OutputStored(number, Content(media_type, len(data), name))

        self._tasks.put(store)

    def _run(self) -> None:
        while True:
            carried = self._tasks.get()()
            if carried is not None:
                self._deliver(carried)

    def _try(self, transfer: Callable[[Blobs], Answer]) -> Answer | Failure:
        if self._blobs is None:
            return NO_BLOBS
        for attempt in range(TRIES):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                return transfer(self._blobs)
            except StateStoreError as error:
                failure = Failure(error.code, error.message)
            except PenstockError as error:
                return Failure(error.code, error.message)
        return failure

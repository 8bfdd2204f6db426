"""Moves inputs and results that are too large for the job store, on a thread of its own.

Storage that fails is asked again for a while: an attempt that ended because of it would only have
the next one fail, too. Outputs of streams come after inputs and results, and are tried less often;
of those that wait, the oldest make room for the newest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

from penstock.shared.contracts.errors import ErrorCode, PenstockError, StateStoreError
from penstock.shared.jobs.record import Content
from penstock.shared.wire.messages import Failure
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer

TRIES = 6
"""Of each transfer; with the pauses between them, about ten seconds."""

OUTPUT_TRIES = 2
"""Of an output: it only shows how far a job has got, and what comes after it must not wait."""

WAITING_BYTES_MAX = 64 << 20
"""Bytes of outputs that wait; a model may yield faster than any storage takes."""

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


class PortBlobs(Protocol):
    """Of `penstock.shared.jobs.blobs.BlobStore`, what is used here."""

    def put(self, job_id: str, data: Buffer) -> str:
        """Keep bytes; their name."""
        ...

    def get(self, name: str) -> bytes:
        """The bytes of that name."""
        ...


@record
class BlobLoaded:
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
    """An output of a stream is a blob now; None: it was dropped, or the storage failed."""

    number: int
    content: Content | None


Carried: TypeAlias = BlobLoaded | Stored | OutputStored


@record
class _Output:
    number: int
    job_id: str
    media_type: str
    data: Buffer


class BlobCarrier:
    """See the module's docstring.

    Args:
        blobs: where they lie; None: nowhere, and every transfer fails.
        deliver: takes what was done, or dropped; any thread may call it.
    """

    def __init__(self, blobs: PortBlobs | None, deliver: Callable[[Carried], None]) -> None:
        self._blobs = blobs
        self._deliver = deliver
        self._changed = threading.Condition()  # guards what is below
        self._tasks: deque[Callable[[], Carried]] = deque()
        self._outputs: deque[_Output] = deque()
        self._output_bytes = 0

    @property
    def has_blobs(self) -> bool:
        """Whether there is a place for blobs."""
        return self._blobs is not None

    def start(self) -> None:
        """Start the thread; it ends with the process."""
        threading.Thread(target=self._run, name="blobs", daemon=True).start()

    def load(self, number: int, name: str) -> None:
        """Get a job's input."""
        self._do(lambda: BlobLoaded(number, self._try(lambda blobs: blobs.get(name))))

    def store(self, number: int, job_id: str, data: Buffer) -> None:
        """Keep a job's result."""
        size = len(data)
        self._do(lambda: Stored(number, size, self._try(lambda blobs: blobs.put(job_id, data))))

    def store_output(self, number: int, job_id: str, media_type: str, data: Buffer) -> None:
        """Keep an output of a stream; where that fails, or others make it wait, it is dropped."""
        dropped: list[_Output] = []
        with self._changed:
            self._outputs.append(_Output(number, job_id, media_type, data))
            self._output_bytes += len(data)
            while self._output_bytes > WAITING_BYTES_MAX and len(self._outputs) > 1:
                dropped.append(self._take_output())
            self._changed.notify()
        for output in dropped:
            self._deliver(OutputStored(output.number, None))

    def _take_output(self) -> _Output:
        output = self._outputs.popleft()
        self._output_bytes -= len(output.data)
        return output

    def _do(self, task: Callable[[], Carried]) -> None:
        with self._changed:
            self._tasks.append(task)
            self._changed.notify()

    def _next(self) -> Callable[[], Carried]:
        with self._changed:
            self._changed.wait_for(lambda: self._tasks or self._outputs)
            if self._tasks:
                return self._tasks.popleft()
            return partial(self._store_output, self._take_output())

    def _run(self) -> None:
        while True:
            task = self._next()
            self._deliver(task())

    def _store_output(self, output: _Output) -> OutputStored:
        name = self._try(lambda blobs: blobs.put(output.job_id, output.data), OUTPUT_TRIES)
        if isinstance(name, Failure):
            return OutputStored(output.number, None)
        content = Content(output.media_type, len(output.data), name)
        return OutputStored(output.number, content)

    def _try(self, transfer: Callable[[PortBlobs], Answer], tries: int = TRIES) -> Answer | Failure:
        if self._blobs is None:
            return NO_BLOBS
        for attempt in range(tries):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                return transfer(self._blobs)
            except StateStoreError as error:
                failure = Failure(error.code, error.message)
            except PenstockError as error:
                return Failure(error.code, error.message)
        return failure

"""The job store and the blobs as the gateway's clients meet them: bounded waits, errors in words.

Every call may be repeated without harm, so a call that failed is sent once more: the connection
that it was to leave by may have ended with a server that is back already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.contracts.errors import (
    ErrorCode,
    PenstockError,
    StateStoreError,
    StoreFullError,
)
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.process.blocking import in_thread
from penstock.shared.process.outage import Outage
from penstock.shared.process.telemetry import get_logger
from penstock.shared.wire.tensors import Buffer

log = get_logger("jobs")

Answer = TypeVar("Answer")

TRIES = 2

FULL = "no room for new jobs: they are refused; all else goes on"
BOUNDS = "--jobs-max, --jobs-bytes-max; maxmemory (penstock up --store-memory)"
FULL_AGAIN_S = 60.0
"""How often the log says that the store is full, while it is."""

AWAY = "the job store cannot be reached now"
KEPT = "; nothing that it accepted is lost"
"""What is said besides where that is so."""

BLOBS_AWAY = "the store of large payloads cannot be reached now"


class Store(Protocol):
    """What is needed of `penstock.shared.jobs.store.JobStore`."""

    @property
    def found(self) -> Durability: ...

    async def run(self, call: Call[Answer]) -> Answer: ...


class Blobs(Protocol):
    """Where large payloads and results lie; all methods block, and may be called by any thread."""

    def put(self, job_id: str, data: Buffer) -> str: ...

    def get(self, name: str) -> bytes: ...

    def delete(self, names: list[str]) -> list[str]: ...


class StoreAwayError(PenstockError):
    """The job store did not answer, or not in time."""

    def __init__(self, retry_after_s: float, durability: Durability) -> None:
        message = AWAY + KEPT if durability.is_sure else AWAY
        super().__init__(ErrorCode.UNAVAILABLE, message, retry_after_s)


class JobAccess:
    """Runs calls of the job store, and reads and writes blobs.

    Args:
        store: of the jobs.
        blobs: of what is too large for it; None: there is no such place.
        settings: how long it is waited for, and what clients are told when it does not answer.
    """

    def __init__(self, store: Store, blobs: Blobs | None, settings: JobSettings) -> None:
        self._store = store
        self._blobs = blobs
        self._timeout_s = settings.jobs_store_timeout_s
        self._blob_timeout_s = settings.jobs_blob_timeout_s
        self._blob_slots = asyncio.Semaphore(settings.jobs_blobs_at_once_max)
        self._retry_after_s = settings.jobs_retry_after_s
        self._away = Outage(log, "the job store does not answer")
        self._full = Outage(log, FULL, again_s=FULL_AGAIN_S)  # some submits fit, others do not

    @property
    def has_blobs(self) -> bool:
        """Whether there is a place for large payloads."""
        return self._blobs is not None

    @property
    def durability(self) -> Durability:
        """What the answers of calls that change something are worth, as was found last."""
        return self._store.found

    async def run(self, call: Call[Answer]) -> Answer:
        """The call's answer.

        Raises:
            StoreAwayError: if there is none in time; the call may have happened.
            PenstockError: what the call itself may raise.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._tried(call)
        except StoreFullError as error:
            self._full.failed(reason=error.message, bounds=BOUNDS)
            raise PenstockError(error.code, error.message, self._retry_after_s) from error
        except (StateStoreError, TimeoutError) as error:
            self._note_away(error)
            raise StoreAwayError(self._retry_after_s, self._store.found) from error
        self._away.worked()
        return answer

    async def put_blob(self, job_id: str, data: Buffer) -> str:
        """Keep bytes; their name."""
        blobs = self._needed_blobs()
        return await self._with_blobs(lambda: blobs.put(job_id, data))

    async def get_blob(self, name: str) -> bytes:
        """The bytes of a blob."""
        blobs = self._needed_blobs()
        return await self._with_blobs(lambda: blobs.get(name))

    async def drop_blob(self, name: str) -> None:
        """Delete a blob that nothing refers to; if that fails, a sweep finds it later."""
        blobs = self._needed_blobs()
        try:
            await self._with_blobs(lambda: blobs.delete([name]))
        except PenstockError as error:
            log.warning("a blob is left over", reason=error.message)

    async def _tried(self, call: Call[Answer]) -> Answer:
        for _ in range(TRIES - 1):
            try:
                return await self._store.run(call)
            except StoreFullError:
                raise
            except StateStoreError as error:
                self._note_away(error)
        return await self._store.run(call)

    async def _with_blobs(self, work: Callable[[], Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._blob_timeout_s):
                return await self._in_slot(work)
        except StoreFullError as error:
            raise PenstockError(error.code, error.message, self._retry_after_s) from error
        except (StateStoreError, TimeoutError) as error:
            log.warning("blobs cannot be reached", reason=str(error) or repr(error))
            raise PenstockError(ErrorCode.UNAVAILABLE, BLOBS_AWAY, self._retry_after_s) from error

    async def _in_slot(self, work: Callable[[], Answer]) -> Answer:
        """Run it in a thread. Its slot is free when the thread is through, heard or not."""
        await self._blob_slots.acquire()
        running = asyncio.ensure_future(in_thread(work))
        running.add_done_callback(lambda _: self._blob_slots.release())
        return await asyncio.shield(running)

    def _needed_blobs(self) -> Blobs:
        if self._blobs is None:
            raise PenstockError(ErrorCode.INTERNAL, "this gateway has no store of large payloads")
        return self._blobs

    def _note_away(self, error: Exception) -> None:
        self._away.failed(reason=str(error) or repr(error))

"""Jobs for the protocols in front: submit, look, wait, follow, fetch, cancel, retry, forget, list.

The record in the job store is the one authority; nothing of a job is kept here.

Previous stop: `penstock.gateway.http.jobs.routes`. Next: `penstock.shared.jobs.store`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from penstock.gateway.inference.types import InferenceAnswer
from penstock.gateway.jobs.access import Blobs, JobAccess, Store
from penstock.gateway.jobs.clients.byte_budget import ByteBudget, ByteShare
from penstock.gateway.jobs.clients.outcomes import answer_of, check_succeeded, event_before
from penstock.gateway.jobs.clients.submission import Submission, accepted, digest_of, new_job
from penstock.gateway.jobs.clients.watching import OUTPUT_SHOWN_BYTES_MAX, JobWatch, News
from penstock.gateway.jobs.settings import JobSettings
from penstock.gateway.memory.held_bytes import UNREAD, HeldBytes
from penstock.gateway.webhooks.addresses import Network
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import JobEvent, JobView, JobWithBytes, Undelivered
from penstock.shared.jobs.calls import INLINE_BYTES_MAX, StoreLimits
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.ids import is_job_id, made_ms, new_job_id
from penstock.shared.jobs.payload import INPUT_TYPE, pack_input, unpack_result
from penstock.shared.jobs.record import RETRYABLE, Content, JobRecord, JobState, NewJob
from penstock.shared.wire.records import record
from penstock.shared.wire.tensors import Buffer

SUBMITS_FULL = "too many submits of jobs are under way at this gateway"
RESULTS_FULL = "too many results of jobs are under way at this gateway"

CLOCKS_APART_MS = 300_000
"""How far ahead of this gateway's clock another one's may be."""


@record
class JobAnswer:
    """The result of a job.

    Attributes:
        record: of the job.
        client_id: what the client called its request ("": nothing).
        answer: what an inference would have answered.
        share: of the bytes that results may hold; to be released once it was sent.
    """

    record: JobRecord
    client_id: str
    answer: InferenceAnswer
    share: ByteShare


@record
class PartialOutput:
    """The last output of a job that may still go on.

    Attributes:
        content: what it is.
        body: its bytes; None: too large to be shown, out of reach, or no room for it now.
        share: of the bytes that results may hold; to be released once it was sent.
    """

    content: Content
    body: bytes | None
    share: ByteShare


class JobService:
    """What clients may do with jobs.

    Args:
        store: of the jobs.
        news: hints of their changes.
        settings: bounds and defaults.
        blobs: of what is too large for the store; None: that is refused.
        webhook_networks: that may be sent to besides the public ones; None: there are no webhooks.
        wall_s: the time in seconds since 1970.
        held: what the gateway holds; None: jobs count by themselves.

    Attributes:
        settings: bounds and defaults.
        webhook_networks: as given.
        watch: who waits here.
    """

    def __init__(
        self,
        store: Store,
        news: News,
        settings: JobSettings,
        blobs: Blobs | None = None,
        webhook_networks: Sequence[Network] | None = None,
        wall_s: Callable[[], float] = time.time,
        held: HeldBytes | None = None,
    ) -> None:
        self.settings = settings
        self.webhook_networks = webhook_networks
        self._access = JobAccess(store, blobs, settings)
        self._wall_s = wall_s
        self._limits = StoreLimits(settings.jobs_max, settings.jobs_bytes_max)
        retry_s = settings.jobs_retry_after_s
        self._submits = ByteBudget(settings.jobs_submit_bytes_max, SUBMITS_FULL, retry_s, held)
        most_results = settings.jobs_result_bytes_max
        self._results = ByteBudget(most_results, RESULTS_FULL, retry_s, held, UNREAD)
        self.watch = JobWatch(self._access, news, settings, self._results)

    @property
    def durability(self) -> Durability:
        """What it is worth that a job was accepted, as was found last."""
        return self._access.durability

    def begin_drain(self) -> None:
        """The gateway leaves: who waits is let go."""
        self.watch.begin_drain()

    async def submit(self, submission: Submission) -> JobView:
        """Accept a job; once this returns, it is as durable as the store makes it.

        Raises:
            PenstockError: PAYLOAD_TOO_LARGE, IDEMPOTENCY_MISMATCH, JOB_GONE (the job of its key is
                not kept any more), STORE_FULL, QUEUE_FULL (too many submits are under way),
                UNAVAILABLE (it may have been accepted all the same).
        """
        size = sum(memoryview(tensor.data).nbytes for tensor in submission.input.request.inputs)
        share = self._submits.take(size)
        try:
            return await self._submit(submission, size)
        finally:
            share.release()

    async def _submit(self, submission: Submission, size: int) -> JobView:
        job = new_job(new_job_id(), submission, self.settings)
        self._check_kept(size)  # before it is copied
        body, digest = await _packed(submission, size)
        blob = await self._blob_of(job, body)
        payload = Content(INPUT_TYPE, len(body), blob)
        call = calls.submit(job, payload, b"" if blob else body, digest=digest, limits=self._limits)
        try:
            submitted = await self._access.run(call)
        except PenstockError as error:
            if blob and error.code in (ErrorCode.IDEMPOTENCY_MISMATCH, ErrorCode.STORE_FULL):
                await self._access.drop_blob(blob)
            raise
        if submitted.created:
            return accepted(job, payload, submitted)
        if blob:
            await self._access.drop_blob(blob)
        found = await self._access.run(calls.get(submitted.id))
        if found is None:
            raise _job_of_key_gone(submitted.id)
        return found

    async def job(self, job_id: str, wait_s: float = 0.0) -> JobView:
        """A job, once it is finished or after `wait_s`.

        Raises:
            PenstockError: JOB_NOT_FOUND, QUEUE_FULL (too many wait), UNAVAILABLE.
        """
        wait_s = min(wait_s, self.settings.jobs_wait_s_max)
        if wait_s > 0:
            self.watch.check_room()
            return _known(await self.watch.until_finished(_checked(job_id), wait_s), job_id)
        return _known(await self._access.run(calls.get(_checked(job_id))), job_id)

    async def partial(self, found: JobRecord) -> PartialOutput | None:
        """A job's last output, as far as it is still there; its share is the caller's to release.

        Raises:
            PenstockError: UNAVAILABLE.
        """
        if not found.partial:
            return None
        events = await self._access.run(calls.events(found.id, event_before(found.partial), 1))
        if not events or events[0].id != found.partial:
            return None
        event = events[0]
        assert event.output is not None
        try:
            share = self._results.take(_shown_bytes(event.output))
        except PenstockError:  # the job itself can be told of all the same
            return PartialOutput(event.output, None, self._results.nothing())
        try:
            return PartialOutput(event.output, await self.output(event), share)
        except BaseException:
            share.release()
            raise

    async def result(self, job_id: str) -> JobAnswer:
        """What an inference would have answered; its share is the caller's to release.

        Raises:
            PenstockError: JOB_NOT_FOUND, JOB_STATE (unfinished), JOB_GONE (no result, and there
                will be none), QUEUE_FULL (too many results are under way), UNAVAILABLE, or what the
                job failed with.
        """
        found = await self._access.run(calls.result(_checked(job_id)))
        if found is None:
            raise self._nothing_there(job_id)
        check_succeeded(found.record)
        content = found.record.result
        share = self._results.take(content.size_bytes if content else 0)
        try:
            return await self._answer(found, share)
        except BaseException:
            share.release()
            raise

    async def _answer(self, found: JobWithBytes, share: ByteShare) -> JobAnswer:
        content, body = found.record.result, found.body
        if body is None and content is not None and content.blob:
            body = await self._access.get_blob(content.blob)
        if body is None:
            raise PenstockError(ErrorCode.JOB_GONE, f"the result of job {found.record.id} is gone")
        unpacked = unpack_result(body)
        answer = answer_of(found.record, unpacked.final)
        return JobAnswer(found.record, unpacked.client_id, answer, share)

    async def first_events(self, job_id: str, after: str) -> tuple[JobView, list[JobEvent]]:
        """A job, and the next that happened to it, before `events` is asked to follow.

        Raises:
            PenstockError: JOB_NOT_FOUND, QUEUE_FULL, UNAVAILABLE.
        """
        self.watch.check_room()
        view, events = await self.watch.step(_checked(job_id), after, 1)
        return _known(view, job_id), events

    def events(self, job_id: str, after: str) -> AsyncGenerator[JobEvent | None, None]:
        """See `JobWatch.events`."""
        return self.watch.events(job_id, after)

    async def output(self, event: JobEvent) -> bytes | None:
        """The bytes of an event's output, wherever they lie; None if they are not to be had."""
        if event.output is None or not _shown_bytes(event.output):
            return None
        if event.body is not None:
            return event.body
        try:
            return await self._access.get_blob(event.output.blob)
        except PenstockError:
            return None  # collected with its job meanwhile, or out of reach

    async def cancel(self, job_id: str) -> JobView:
        """Cancel a job; it is canceled or canceling then.

        Raises:
            PenstockError: JOB_NOT_FOUND, JOB_STATE (it has finished otherwise), UNAVAILABLE.
        """
        state = await self._access.run(calls.cancel(_checked(job_id)))
        if state not in (None, JobState.CANCELED, JobState.CANCELING):
            raise _wrong_state(job_id, state, "only a job that has not finished can be canceled")
        return await self.job(job_id)

    async def retry(self, job_id: str) -> JobView:
        """Queue a job anew that failed, was canceled or expired.

        Raises:
            PenstockError: JOB_NOT_FOUND, JOB_STATE (it is in another state), JOB_GONE (its input
                is not kept any more), UNAVAILABLE.
        """
        found = (await self.job(job_id)).record
        if found.state not in RETRYABLE:
            rule = "only a job that failed, was canceled or expired can be retried"
            raise _wrong_state(job_id, found.state, rule)
        try:
            await self._access.run(calls.retry(found))
        except PenstockError as error:
            if error.code is ErrorCode.JOB_GONE:
                raise _input_gone(found) from error
            raise
        return await self.job(job_id)

    async def forget(self, job_id: str) -> None:
        """Erase a finished job.

        Raises:
            PenstockError: JOB_NOT_FOUND, JOB_STATE (it has not finished), UNAVAILABLE.
        """
        await self.job(job_id)
        state = await self._access.run(calls.forget(job_id))
        if state is not None:
            raise _wrong_state(job_id, state, "cancel it first; only a finished job is deleted")

    async def page(
        self, model: str, state: JobState | None, dead: bool, before: str, most: int
    ) -> list[JobRecord]:
        """Jobs, newest first: those older than the id `before`, at most `most`."""
        if dead:
            return await self._access.run(calls.dead_letters(model, before, most))
        return await self._access.run(calls.jobs(model, state, before, most))

    async def undelivered_webhooks(self, before: str, most: int) -> list[Undelivered]:
        """Webhooks that were given up, newest first: those before the id `before`."""
        return await self._access.run(calls.undelivered_webhooks(before, most))

    def _check_kept(self, size_bytes: int) -> None:
        """See that an input of this size can be kept.

        Raises:
            PenstockError: PAYLOAD_TOO_LARGE.
        """
        if size_bytes > INLINE_BYTES_MAX and not self._access.has_blobs:
            raise PenstockError(
                ErrorCode.PAYLOAD_TOO_LARGE,
                f"a job's input of {size_bytes} bytes: expected at most {INLINE_BYTES_MAX}, since "
                "this gateway has no store for larger ones (setting blobs_url)",
            )

    async def _blob_of(self, job: NewJob, body: Buffer) -> str:
        """Where a large input lies now; "" for one that the store keeps itself."""
        if len(body) <= INLINE_BYTES_MAX:
            return ""
        self._check_kept(len(body))
        return await self._access.put_blob(job.id, body)

    def _nothing_there(self, job_id: str) -> PenstockError:
        """For an id that the store does not know: ids tell whether there can have been a job."""
        if made_ms(job_id) <= self._wall_s() * 1000 + CLOCKS_APART_MS:
            message = f"job {job_id} is not kept any more: its time is over, or it was deleted"
            return PenstockError(ErrorCode.JOB_GONE, message)
        return _not_found(job_id)


async def _packed(submission: Submission, size: int) -> tuple[Buffer, str]:
    """The input as bytes, and its digest if there is a key to compare it for."""
    if size > INLINE_BYTES_MAX:  # copying and hashing take a while: let others have their turn
        return await asyncio.to_thread(_pack, submission)
    return _pack(submission)


def _pack(submission: Submission) -> tuple[Buffer, str]:
    digest = digest_of(submission) if submission.options.idempotency_key else ""
    return pack_input(submission.input), digest


def _shown_bytes(output: Content) -> int:
    """Bytes of an output that are shown: all, or none of one that is too large."""
    return output.size_bytes if output.size_bytes <= OUTPUT_SHOWN_BYTES_MAX else 0


def _checked(job_id: str) -> str:
    if not is_job_id(job_id):
        raise _not_found(job_id)
    return job_id


def _known(view: JobView | None, job_id: str) -> JobView:
    if view is None:
        raise _not_found(job_id)
    return view


def _not_found(job_id: str) -> PenstockError:
    return PenstockError(ErrorCode.JOB_NOT_FOUND, f"there is no job {job_id[:64]!r}")


def _job_of_key_gone(job_id: str) -> PenstockError:
    """Its key still stands for it: what was accepted once is not to run twice."""
    message = (
        f"this idempotency key stands for job {job_id}, which is not kept any more: its time is "
        "over, or it was deleted; to run it again, use another key"
    )
    return PenstockError(ErrorCode.JOB_GONE, message)


def _input_gone(job: JobRecord) -> PenstockError:
    message = (
        f"job {job.id} is {job.state} and its input is not kept any more, since newer jobs needed "
        "its room, or it ended before inputs were kept: submit it anew"
    )
    return PenstockError(ErrorCode.JOB_GONE, message)


def _wrong_state(job_id: str, state: JobState | None, rule: str) -> PenstockError:
    return PenstockError(ErrorCode.JOB_STATE, f"job {job_id} is {state}: {rule}")

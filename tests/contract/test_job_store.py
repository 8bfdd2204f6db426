"""Each call of the job store against a real server, by both clients, and each sent twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis import Redis

from penstock.shared.contracts.errors import (
    ErrorCode,
    PenstockError,
    StateStoreError,
    StoreFullError,
)
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import (
    Beat,
    Collected,
    IdempotencyMismatchError,
    JobWithBytes,
    LeasedJobs,
    Moved,
    Progress,
    Submitted,
    WebhookDue,
)
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.record import Content, JobRecord, JobState, NewJob
from penstock.shared.jobs.scripts import LIMITS
from penstock.shared.jobs.store import JobStore
from penstock.shared.jobs.totals import BOUNDS_MS
from penstock.shared.store.keys import Keys
from tests.contract.job_audit import audit, contents
from tests.contract.redis_server import Server

Answer = TypeVar("Answer")

KEYS = Keys("test")
HOUR_MS = 3_600_000
TEXT = "text/plain"

LEASE_MS = 60_000
"""Tests move the clock by tens of seconds, so that a slow machine's own time does not matter."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder), appendfsync="always")
        running.start()
        yield running
        running.kill()


class Bench:
    """Runs calls by one of the two clients, and looks at what the server holds then."""

    def __init__(self, url: str, blocking: bool) -> None:
        self.redis: Redis = Redis.from_url(url)
        self.redis.flushall()
        self._blocking = BlockingJobStore(url, KEYS)
        self._async = JobStore(url, KEYS)
        self._is_blocking = blocking

    async def run(self, call: Call[Answer]) -> Answer:
        """The call's answer; afterwards all indexes must fit the records."""
        try:
            if self._is_blocking:
                return await asyncio.to_thread(self._blocking.run, call)
            return await self._async.run(call)
        finally:
            audit(self.redis, KEYS)

    async def twice(self, call: Call[Answer]) -> Answer:
        """The same, and the same call again changes nothing and has the same answer."""
        answer = await self.run(call)
        before = contents(self.redis, KEYS)
        assert await self.run(call) == answer
        assert contents(self.redis, KEYS) == before
        return answer

    def pass_ms(self, ms: int) -> None:
        self._async.scripts.clock_offset_ms += ms
        self._blocking.scripts.clock_offset_ms += ms

    async def record(self, job_id: str) -> JobRecord:
        view = await self.run(calls.get(job_id))
        assert view is not None
        return view.record

    async def place(self, job_id: str) -> int | None:
        view = await self.run(calls.get(job_id))
        assert view is not None
        return view.place

    async def state(self, job_id: str) -> JobState:
        return (await self.record(job_id)).state

    async def submit(self, body: bytes = b"in", **options: Any) -> str:
        return (await self.run(submit_call(body, **options))).id

    async def lease(self, most: int = 1, **options: Any) -> Sequence[JobWithBytes]:
        return (await self.run(lease_call(most, **options))).jobs

    async def running(self, **options: Any) -> JobRecord:
        """A job that was just leased."""
        await self.submit(**options)
        return (await self.lease())[0].record

    async def close(self) -> None:
        await self._async.close()
        self._blocking.close()
        self.redis.close()


@pytest.fixture(params=["async", "blocking"])
async def bench(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Bench]:
    made = Bench(server.url, request.param == "blocking")
    yield made
    await made.close()


def new_job(**options: Any) -> NewJob:
    given = {"id": new_job_id(), "model": "m", "version": "1", "revision": "r1"}
    return NewJob(**(given | options))


def submit_call(body: bytes = b"in", *, digest: str = "", **options: Any) -> Call[Submitted]:
    limits = options.pop("limits", calls.DEFAULT_LIMITS)
    content = Content(TEXT, len(body))
    return calls.submit(new_job(**options), content, body, digest=digest, limits=limits)


def lease_call(most: int = 1, **options: Any) -> Call[LeasedJobs]:
    given: dict[str, Any] = {
        "model": "m",
        "revision": "r1",
        "holder": "h1",
        "request": new_job_id(),
        "lease_ms": LEASE_MS,
        "idle": True,
    }
    return calls.lease(**(given | options), most=most)


def commit_call(job: JobRecord, body: bytes = b"out") -> Call[JobState | None]:
    return calls.commit(job.id, job.token, Content(TEXT, len(body)), body)


def fail_call(job: JobRecord, *, retryable: bool = True, cause: str = "") -> Call[JobState | None]:
    told = (job.id, job.token, "model_error", "it broke")
    return calls.fail(*told, retryable=retryable, cause=cause)


def reclaim_call() -> Call[Any]:
    return calls.reclaim(gap_ms=1 << 50, grace_ms=0)


# Submit -------------------------------------------------------------------------------------------


async def test_what_was_submitted_is_what_is_there(bench: Bench) -> None:
    job = new_job(
        pin="1",
        priority=2,
        max_attempts=7,
        timeout_ms=1000,
        queue_ttl_ms=5000,
        result_ttl_ms=6000,
        dead_ttl_ms=7000,
        idempotency="abc",
        idempotency_ms=8000,
        webhook="https://example.org/hook?x=1",
        webhook_events=(JobState.SUCCEEDED, JobState.FAILED),
    )
    submitted = await bench.twice(calls.submit(job, Content(TEXT, 3), b"\x00\xff:"))
    assert (submitted.id, submitted.created, submitted.place) == (job.id, True, 0)
    record = await bench.record(job.id)
    assert record.job == job
    assert record.payload == Content(TEXT, 3)
    assert record.state is JobState.QUEUED
    assert record.created_ms == record.queued_ms == submitted.created_ms > 1_700_000_000_000
    assert record.expires_ms == record.created_ms + 5000
    [leased] = await bench.lease()
    assert leased.body == b"\x00\xff:"


async def test_an_unknown_job_is_none(bench: Bench) -> None:
    unknown: list[Call[Any]] = [calls.get("x"), calls.result("x"), calls.cancel("x")]
    for call in [*unknown, calls.forget("x")]:
        assert await bench.run(call) is None
    assert await bench.run(calls.events("x")) == []


async def test_an_idempotency_key_stands_for_one_job(bench: Bench) -> None:
    key = calls.idempotency_hash("m", "key")
    first = await bench.submit(idempotency=key, digest="a")
    again = await bench.twice(submit_call(idempotency=key, digest="a"))
    assert (again.id, again.created) == (first, False)
    with pytest.raises(IdempotencyMismatchError) as raised:
        await bench.run(submit_call(idempotency=key, digest="b"))
    assert raised.value.job_id == first
    other = calls.idempotency_hash("other", "key")
    assert (await bench.run(submit_call(idempotency=other, digest="b"))).created
    assert bench.redis.ttl(f"{KEYS.jobs}:idempotency:{key}") == -1
    [leased] = await bench.lease()
    await bench.run(commit_call(leased.record))
    assert 0 < bench.redis.ttl(f"{KEYS.jobs}:idempotency:{key}") <= 24 * 3600


async def test_an_idempotency_key_outlives_its_forgotten_job(bench: Bench) -> None:
    key = calls.idempotency_hash("m", "key")
    call = submit_call(idempotency=key)
    first = (await bench.run(call)).id
    await bench.run(calls.cancel(first))
    await bench.run(calls.forget(first))
    assert (await bench.twice(call)).created_ms == 0
    assert not (await bench.run(submit_call(idempotency=key))).created


async def test_beyond_the_limits_nothing_is_submitted(bench: Bench) -> None:
    limits = calls.StoreLimits(jobs_max=2, bytes_max=100)
    with pytest.raises(StoreFullError):
        await bench.run(submit_call(b"x" * 101, limits=limits))
    first = submit_call(b"x" * 90, limits=limits)
    await bench.run(first)
    with pytest.raises(StoreFullError):
        await bench.run(submit_call(b"x" * 11, limits=limits))
    await bench.twice(first)  # it is in already
    await bench.run(submit_call(b"x" * 10, limits=limits))
    with pytest.raises(StoreFullError):
        await bench.run(submit_call(b"", limits=limits))


def test_what_is_too_large_must_be_a_blob() -> None:
    body = b"x" * (calls.INLINE_BYTES_MAX + 1)
    with pytest.raises(ValueError, match="bytes"):
        submit_call(body)
    calls.submit(new_job(), Content(TEXT, len(body), "blob"), b"")


# Order and places ---------------------------------------------------------------------------------


async def test_the_urgent_and_then_the_old_come_first(bench: Bench) -> None:
    ids = {}
    for name, priority in (("b", 5), ("c", 5), ("a", 1), ("d", 9)):
        ids[name] = await bench.submit(priority=priority)
        bench.pass_ms(1)
    for place, name in enumerate("abcd"):
        view = await bench.run(calls.get(ids[name]))
        assert view is not None
        assert view.place == place
    await bench.run(calls.cancel(ids["b"]))
    leased = await bench.lease(10)
    assert [job.record.id for job in leased] == [ids[name] for name in "acd"]


async def test_jobs_are_listed_newest_first_in_pages(bench: Bench) -> None:
    mine = [await bench.submit() for _ in range(5)]
    theirs = [await bench.submit(model="n") for _ in range(3)]
    await bench.run(calls.cancel(mine[2]))
    everything = sorted(mine + theirs, reverse=True)

    async def listed(**options: Any) -> list[str]:
        return [record.id for record in await bench.run(calls.jobs(**options))]

    assert await listed() == everything
    assert await listed(most=3) == everything[:3]
    assert await listed(before=everything[2], most=3) == everything[3:6]
    assert await listed(model="n") == theirs[::-1]
    assert await listed(model="m", state=JobState.CANCELED) == [mine[2]]
    assert await listed(state=JobState.QUEUED, most=4) == [*theirs[::-1], mine[4]]
    assert await bench.run(calls.dead_letters()) == []


# Leases -------------------------------------------------------------------------------------------


async def test_the_same_request_gets_the_same_jobs(bench: Bench) -> None:
    ids = [await bench.submit() for _ in range(5)]
    request = lease_call(3)
    first = await bench.twice(request)
    assert [job.record.id for job in first.jobs] == ids[:3]
    record = first.jobs[0].record
    assert (record.state, record.holder, record.token, record.attempts) == ("running", "h1", 1, 1)
    assert record.lease_expires_ms == record.started_ms + LEASE_MS
    await bench.run(commit_call(record))
    assert [job.record.id for job in (await bench.run(request)).jobs] == ids[1:3]
    assert [job.record.id for job in await bench.lease(9)] == ids[3:]
    assert await bench.lease(9) == []


async def test_a_beat_prolongs_the_lease(bench: Bench) -> None:
    job = await bench.running()
    bench.pass_ms(40_000)
    assert await bench.twice(calls.heartbeat(job.id, job.token, 1, LEASE_MS)) is Beat.CONTINUE
    bench.pass_ms(40_000)
    assert await bench.run(reclaim_call()) == []
    bench.pass_ms(21_000)
    assert await bench.run(reclaim_call()) == [(job.id, JobState.QUEUED)]
    assert await bench.run(calls.heartbeat(job.id, job.token, 2, LEASE_MS)) is Beat.LOST


async def test_a_beat_tells_progress_and_outputs(bench: Bench) -> None:
    job = await bench.running()
    outputs = [(Content(TEXT, 3), b"one"), (Content("image/png", 9, "blob-2"), b"")]
    progress = Progress(0.25, "step 1", estimated=True)
    await bench.twice(calls.heartbeat(job.id, job.token, 1, LEASE_MS, progress, outputs))
    await bench.twice(calls.heartbeat(job.id, job.token, 2, LEASE_MS, Progress(0.5)))
    record = await bench.record(job.id)
    assert (record.progress, record.progress_message) == (0.5, "")
    events = await bench.run(calls.events(job.id))
    assert [event.state for event in events][:1] == [JobState.RUNNING]
    assert [(event.output, event.body) for event in events[1:3]] == [
        (Content(TEXT, 3), b"one"),
        (Content("image/png", 9, "blob-2"), None),
    ]
    assert [event.progress for event in events[3:]] == [Progress(0.5)]  # only the latest
    assert record.partial == events[2].id
    assert await bench.run(calls.events(job.id, after=events[1].id)) == events[2:]
    assert await bench.run(calls.events(job.id, after=events[-1].id)) == []


async def test_the_log_of_events_is_bounded(bench: Bench) -> None:
    job = await bench.running()
    small = [(Content(TEXT, 1), b"x")] * 300
    await bench.run(calls.heartbeat(job.id, job.token, 1, LEASE_MS, None, small))
    events = await bench.run(calls.events(job.id, most=1000))
    assert len(events) == 256
    large = [(Content(TEXT, 60_000), b"x" * 60_000)] * 30
    await bench.run(calls.heartbeat(job.id, job.token, 2, LEASE_MS, None, large))
    events = await bench.run(calls.events(job.id, most=1000))
    assert sum(len(event.body or b"") for event in events) <= 1 << 20
    blobs = [(Content(TEXT, 1, f"blob-{at}"), b"") for at in range(257)]
    await bench.run(calls.heartbeat(job.id, job.token, 3, LEASE_MS, None, blobs))
    assert (await bench.run(calls.collect())).blobs == ["blob-0"]


async def test_a_result_is_committed_once_by_its_holder(bench: Bench) -> None:
    job = await bench.running()
    bench.pass_ms(LEASE_MS + 1)
    await bench.run(reclaim_call())
    [second] = await bench.lease(holder="h2")
    assert second.record.token == job.token + 1
    assert await bench.twice(commit_call(job, b"stale")) is None
    assert await bench.twice(commit_call(second.record, b"fresh")) is JobState.SUCCEEDED
    assert await bench.twice(commit_call(job, b"stale")) is None
    stored = await bench.run(calls.result(job.id))
    assert stored is not None
    assert (stored.body, stored.record.result) == (b"fresh", Content(TEXT, 5))
    assert (stored.record.payload, stored.record.error_code) == (None, "")
    assert stored.record.collect_ms == stored.record.finished_ms + 24 * HOUR_MS


async def test_other_ends_by_a_holder_that_lost_its_lease_are_refused(bench: Bench) -> None:
    job = await bench.running()
    await bench.twice(calls.release(job.id, job.token))
    for call in (commit_call(job), fail_call(job), calls.fail(job.id, 9, "", "", retryable=True)):
        assert await bench.twice(call) is None
    assert await bench.state(job.id) is JobState.QUEUED


async def test_a_failure_is_tried_again_until_attempts_end(bench: Bench) -> None:
    job = await bench.running(max_attempts=2)
    assert await bench.twice(fail_call(job)) is JobState.QUEUED
    [second] = await bench.lease()
    assert second.record.attempts == 2
    assert second.record.queued_ms == job.queued_ms
    assert await bench.twice(fail_call(second.record)) is JobState.FAILED
    [dead] = await bench.run(calls.dead_letters("m"))
    assert (dead.dead, dead.error_code, dead.error_message) == (True, "model_error", "it broke")
    assert dead.collect_ms == dead.finished_ms + 7 * 24 * HOUR_MS


async def test_what_was_raised_stays_until_the_next_attempt_ends(bench: Bench) -> None:
    async def kept() -> tuple[str, str]:
        view = await bench.run(calls.get(job.id))
        assert view is not None
        return view.record.error_code, view.record.error_cause

    job = await bench.running(max_attempts=9)
    await bench.twice(fail_call(job, cause="KeyError: 'width'"))
    assert await kept() == ("model_error", "KeyError: 'width'")
    [second] = await bench.lease()
    await bench.twice(fail_call(second.record, cause="ValueError"))
    assert await kept() == ("model_error", "ValueError")
    assert len(await bench.lease()) == 1
    await bench.run(calls.lose("h1"))  # its replica died: nothing was raised in that attempt
    assert await kept() == ("replica_crashed", "")
    [last] = await bench.lease()
    await bench.twice(fail_call(last.record, cause="KeyError", retryable=False))
    assert await kept() == ("model_error", "KeyError")
    await bench.run(calls.retry(last.record))
    assert await kept() == ("", "")
    [again] = await bench.lease()
    await bench.twice(fail_call(again.record, cause="KeyError"))
    [done] = await bench.lease()
    await bench.twice(commit_call(done.record))
    assert await kept() == ("", "")


async def test_a_failure_that_no_retry_helps_is_no_dead_letter(bench: Bench) -> None:
    job = await bench.running()
    assert await bench.twice(fail_call(job, retryable=False)) is JobState.FAILED
    assert await bench.run(calls.dead_letters()) == []


async def test_a_released_job_keeps_its_place_and_its_attempts(bench: Bench) -> None:
    job = await bench.running()
    bench.pass_ms(5)
    other = await bench.submit()
    assert await bench.twice(calls.release(job.id, job.token)) is JobState.QUEUED
    again = await bench.lease(2)
    assert [each.record.id for each in again] == [job.id, other]
    assert (again[0].record.attempts, again[0].record.token) == (1, 2)


# Cancel, forget, retry ----------------------------------------------------------------------------


async def test_a_queued_job_is_canceled_at_once(bench: Bench) -> None:
    job_id = await bench.submit()
    assert await bench.twice(calls.cancel(job_id)) is JobState.CANCELED
    assert await bench.lease() == []


@pytest.mark.parametrize("end", ["commit", "fail", "release", "reclaim", "lose"])
async def test_a_running_job_is_canceled_when_its_holder_ends(bench: Bench, end: str) -> None:
    job = await bench.running()
    assert await bench.twice(calls.cancel(job.id)) is JobState.CANCELING
    assert await bench.run(calls.heartbeat(job.id, job.token, 1, LEASE_MS)) is Beat.CANCEL
    bench.pass_ms(LEASE_MS + 1)
    ends: dict[str, Call[Any]] = {
        "commit": commit_call(job),
        "fail": fail_call(job),
        "release": calls.release(job.id, job.token),
        "reclaim": reclaim_call(),
        "lose": calls.lose("h1"),
    }
    assert await bench.run(ends[end]) in (JobState.CANCELED, [(job.id, JobState.CANCELED)])
    stored = await bench.run(calls.result(job.id))
    assert stored is not None
    assert (stored.record.state, stored.body) == (JobState.CANCELED, None)
    assert await bench.twice(calls.cancel(job.id)) is JobState.CANCELED


async def test_a_finished_job_stays_as_it_is_when_canceled(bench: Bench) -> None:
    job = await bench.running()
    await bench.run(commit_call(job))
    assert await bench.twice(calls.cancel(job.id)) is JobState.SUCCEEDED


async def test_only_finished_jobs_are_forgotten(bench: Bench) -> None:
    job = await bench.running()
    assert await bench.twice(calls.forget(job.id)) is JobState.RUNNING
    await bench.run(commit_call(job))
    assert await bench.twice(calls.forget(job.id)) is None
    left = set(contents(bench.redis, KEYS))
    assert {name.partition(":")[0] for name in left} <= {"counts", "grant", "totals"}


async def test_a_dead_letter_starts_over(bench: Bench) -> None:
    job = await bench.running(max_attempts=1, queue_ttl_ms=60_000)
    await bench.run(fail_call(job))
    [dead] = await bench.run(calls.dead_letters())
    bench.pass_ms(120_000)
    retry = calls.retry(dead)
    assert await bench.twice(retry) is JobState.QUEUED
    [again] = await bench.lease()
    assert (again.record.attempts, again.record.token, again.body) == (1, 2, b"in")
    assert not again.record.dead
    await bench.run(fail_call(again.record))
    assert await bench.twice(retry) is JobState.FAILED  # the old retry, sent again
    assert await bench.run(calls.retry(await bench.record(job.id))) is JobState.QUEUED


async def canceled(bench: Bench, **options: Any) -> JobRecord:
    job_id = await bench.submit(**options)
    await bench.run(calls.cancel(job_id))
    return await bench.record(job_id)


async def expired(bench: Bench, **options: Any) -> JobRecord:
    job_id = await bench.submit(queue_ttl_ms=1_000, **options)
    bench.pass_ms(1_001)
    assert await bench.run(calls.expire()) == [job_id]
    return await bench.record(job_id)


@pytest.mark.parametrize("end", [canceled, expired])
async def test_a_job_that_was_canceled_or_expired_starts_over_with_its_input(
    bench: Bench, end: Callable[..., Awaitable[JobRecord]]
) -> None:
    job = await end(bench, body=b"the input")
    retry = calls.retry(job)
    assert await bench.twice(retry) is JobState.QUEUED
    [again] = await bench.lease()
    assert (again.record.id, again.body, again.record.attempts) == (job.id, b"the input", 1)
    assert (again.record.error_code, again.record.finished_ms) == ("", 0)
    await bench.run(calls.cancel(job.id))
    await bench.run(calls.release(job.id, again.record.token))
    assert await bench.twice(retry) is JobState.CANCELED  # the old retry, sent again
    assert await bench.run(calls.retry(await bench.record(job.id))) is JobState.QUEUED
    [last] = await bench.lease()
    assert await bench.run(commit_call(last.record)) is JobState.SUCCEEDED


async def test_a_retry_of_a_job_that_never_ran_happens_once_too(bench: Bench) -> None:
    job = await canceled(bench)
    assert await bench.twice(calls.retry(job)) is JobState.QUEUED
    assert await bench.run(calls.cancel(job.id)) is JobState.CANCELED
    assert await bench.twice(calls.retry(job)) is JobState.CANCELED


async def test_a_job_that_succeeded_has_no_input_and_is_not_retried(bench: Bench) -> None:
    job = await bench.running()
    await bench.run(commit_call(job))
    record = await bench.record(job.id)
    assert record.payload is None
    assert await bench.twice(calls.retry(record)) is JobState.SUCCEEDED


async def test_inputs_kept_for_a_retry_give_way_to_new_jobs_the_oldest_first(bench: Bench) -> None:
    room = calls.StoreLimits(bytes_max=40)
    body = b"x" * 10
    failed = await bench.running(body=body, max_attempts=1)
    await bench.run(fail_call(failed))
    old = await canceled(bench, body=body)
    bench.pass_ms(1)
    new = await expired(bench, body=body)
    for _ in range(2):  # the second one needs the oldest input's room
        assert (await bench.run(submit_call(body=body, limits=room))).created
    kept = [(await bench.record(each.id)).payload is not None for each in (failed, old, new)]
    assert kept == [True, False, True]
    with pytest.raises(PenstockError, match="input is not kept") as caught:
        await bench.twice(calls.retry(old))
    assert caught.value.code is ErrorCode.JOB_GONE
    with pytest.raises(StoreFullError):  # what would not suffice is not given up
        await bench.run(submit_call(body=b"x" * 11, limits=room))
    assert await bench.run(calls.retry(new)) is JobState.QUEUED


async def test_inputs_kept_for_a_retry_give_way_to_results(bench: Bench) -> None:
    job = await bench.running()
    spare = await canceled(bench, body=b"x" * 2_000)
    body = b"y" * 2_000
    commit = calls.commit(job.id, job.token, Content(TEXT, 2_000), body, bytes_max=2_100)
    assert await bench.twice(commit) is JobState.SUCCEEDED
    assert (await bench.record(spare.id)).payload is None


async def test_a_server_without_memory_keeps_no_inputs_for_a_retry(bench: Bench) -> None:
    before, ends_then = await canceled(bench), await bench.submit()
    bench.redis.config_set("maxmemory", "1")
    try:
        await bench.run(calls.cancel(ends_then))
        assert (await bench.record(ends_then)).payload is None
        assert (await bench.record(before.id)).payload is not None
        with pytest.raises(StoreFullError, match="out of memory"):
            await bench.twice(submit_call())
        assert (await bench.record(before.id)).payload is None  # the next submit may have its room
    finally:
        bench.redis.config_set("maxmemory", "0")
    assert (await bench.run(submit_call())).created


async def test_a_large_input_is_kept_where_it_lies_until_its_job_is_erased(bench: Bench) -> None:
    large = new_job()
    await bench.run(calls.submit(large, Content(TEXT, 1 << 20, "a-blob"), b""))
    await bench.run(calls.cancel(large.id))
    job = await bench.record(large.id)
    assert (await bench.run(calls.collect())).blobs == []
    assert await bench.run(calls.retry(job)) is JobState.QUEUED
    await bench.run(calls.cancel(job.id))
    await bench.run(calls.forget(job.id))
    assert (await bench.run(calls.collect())).blobs == ["a-blob"]


# Time ---------------------------------------------------------------------------------------------


async def test_a_job_whose_leases_end_again_and_again_fails(bench: Bench) -> None:
    job_id = await bench.submit(max_attempts=2)
    for expected in (JobState.QUEUED, JobState.FAILED):
        await bench.lease()
        bench.pass_ms(LEASE_MS + 1)
        assert await bench.run(reclaim_call()) == [(job_id, expected)]
    [dead] = await bench.run(calls.dead_letters())
    assert (dead.id, dead.error_code, dead.deaths) == (job_id, ErrorCode.REPLICA_CRASHED, 0)


async def test_after_an_absence_holders_may_prolong_first(bench: Bench) -> None:
    job = await bench.running()
    reclaim = calls.reclaim(gap_ms=40_000, grace_ms=50_000)
    await bench.run(reclaim)  # the first one ever
    bench.pass_ms(30_000)
    assert await bench.run(reclaim) == []
    bench.pass_ms(100_000)  # nobody, the server included, was there
    assert await bench.run(reclaim) == []
    bench.pass_ms(30_000)
    assert await bench.run(reclaim) == []
    assert await bench.run(calls.heartbeat(job.id, job.token, 1, LEASE_MS)) is Beat.CONTINUE
    bench.pass_ms(30_000)
    assert await bench.run(reclaim) == []
    bench.pass_ms(35_000)
    assert await bench.run(reclaim) == [(job.id, JobState.QUEUED)]


async def test_jobs_that_had_not_begun_when_their_holder_died_are_no_suspects(bench: Bench) -> None:
    culprit, waiting, canceled = [await bench.submit(max_attempts=2) for _ in range(3)]
    await bench.lease(3, holder="h1")
    await bench.run(calls.cancel(canceled))
    lose = calls.lose("h1", {culprit, "another"})
    assert await bench.run(lose) == [
        (culprit, JobState.QUEUED),
        (waiting, JobState.QUEUED),
        (canceled, JobState.CANCELED),
    ]
    assert await bench.run(lose) == []
    record = await bench.record(waiting)
    assert (record.attempts, record.deaths, record.error_code) == (0, 0, "")
    record = await bench.record(culprit)
    assert (record.attempts, record.deaths) == (1, 1)
    [again] = await bench.lease(1, holder="h2", idle=False)
    assert again.record.id == waiting


async def test_a_job_whose_holders_die_before_it_begins_does_not_go_round_for_ever(
    bench: Bench,
) -> None:
    job_id = await bench.submit(max_attempts=2)
    for attempts in (0, 0, 0, 1, 2):
        await bench.lease(holder="h")
        await bench.run(calls.lose("h", ()))
        record = await bench.record(job_id)
        assert (record.attempts, record.deaths) == (attempts, 0)
    assert (record.state, record.dead) == (JobState.FAILED, True)
    await bench.run(calls.retry(record))
    await bench.lease(holder="h")
    await bench.run(calls.lose("h", ()))
    assert (await bench.record(job_id)).attempts == 0


async def test_a_job_that_kills_its_replica_twice_is_a_dead_letter(bench: Bench) -> None:
    culprit, innocent = await bench.submit(), await bench.submit()
    await bench.lease(2, holder="h1")
    assert await bench.run(calls.lose("h2")) == []
    assert await bench.run(calls.lose("h1")) == [
        (culprit, JobState.QUEUED),
        (innocent, JobState.QUEUED),
    ]
    assert await bench.run(calls.lose("h1")) == []
    third = await bench.submit()
    busy = await bench.run(lease_call(9, holder="h2", idle=False))
    assert ([job.record.id for job in busy.jobs], busy.suspects_waiting) == ([third], 2)
    [suspect] = await bench.lease(9, holder="h3")  # alone
    assert (suspect.record.id, suspect.record.deaths) == (culprit, 1)
    assert await bench.run(calls.lose("h3")) == [(culprit, JobState.FAILED)]
    [dead] = await bench.run(calls.dead_letters())
    assert (dead.id, dead.deaths, dead.error_code) == (culprit, 2, ErrorCode.REPLICA_CRASHED)
    assert [job.record.id for job in await bench.lease(9, holder="h4")] == [innocent]


async def test_suspects_keep_no_healthy_job_waiting_however_many_they_are(bench: Bench) -> None:
    suspects = [await bench.submit() for _ in range(40)]
    await bench.lease(40, holder="h1")
    await bench.run(calls.lose("h1"))
    healthy = await bench.submit()
    last = await bench.submit(priority=1)
    assert await bench.place(healthy) == 1
    assert await bench.place(suspects[0]) == 2
    busy = await bench.run(lease_call(1, holder="h2", idle=False))
    assert [job.record.id for job in busy.jobs] == [last]
    assert busy.suspects_waiting == 0  # of those whose turn it was
    [suspect] = await bench.lease(9, holder="h3")
    assert suspect.record.id == suspects[0]  # where a holder is idle, each has its turn
    busy = await bench.run(lease_call(9, holder="h2", idle=False))
    assert ([job.record.id for job in busy.jobs], busy.suspects_waiting) == ([healthy], 39)


async def test_who_waits_too_long_expires(bench: Bench) -> None:
    swept, leased, patient = [await bench.submit(queue_ttl_ms=ttl) for ttl in (100_000, 200_000, 0)]
    bench.pass_ms(150_000)
    assert await bench.run(calls.expire()) == [swept]
    assert await bench.run(calls.expire()) == []
    bench.pass_ms(100_000)
    assert [job.record.id for job in await bench.lease(9)] == [patient]
    for job_id in (swept, leased):
        record = await bench.record(job_id)
        assert (record.state, record.error_code) == (JobState.EXPIRED, ErrorCode.QUEUE_TIMEOUT)


async def test_results_are_collected_and_their_blobs_told_until_swept(bench: Bench) -> None:
    job = new_job(result_ttl_ms=60_000)
    await bench.run(calls.submit(job, Content(TEXT, 9, "in-blob"), b""))
    [leased] = await bench.lease()
    assert leased.body is None
    output = [(Content(TEXT, 5, "part-blob"), b"")]
    await bench.run(calls.heartbeat(job.id, 1, 1, LEASE_MS, None, output))
    await bench.run(calls.commit(job.id, 1, Content(TEXT, 7, "out-blob"), b""))
    assert await bench.twice(calls.collect()) == Collected(0, ["in-blob"])
    bench.pass_ms(60_001)
    blobs = (await bench.run(calls.collect())).blobs
    assert await bench.twice(calls.collect()) == Collected(0, blobs)
    assert sorted(blobs) == ["in-blob", "out-blob", "part-blob"]
    await bench.twice(calls.swept(blobs))
    assert await bench.run(calls.collect()) == Collected(0, [])
    assert await bench.run(calls.get(job.id)) is None


# Versions, webhooks, figures ----------------------------------------------------------------------


async def test_waiting_jobs_follow_their_model_to_another_revision(bench: Bench) -> None:
    free = [await bench.submit() for _ in range(3)]
    same = await bench.submit(pin="2", version="2")
    pinned = await bench.submit(pin="1")
    move = calls.move_version("m", "r1", "r2", "2", most=2)
    steps = [await bench.run(move) for _ in range(4)]
    assert steps == [Moved(2, 0, 3), Moved(2, 0, 1), Moved(0, 1, 0), Moved(0, 0, 0)]
    record = await bench.record(pinned)
    assert (record.state, record.error_code) == (JobState.FAILED, ErrorCode.VERSION_NOT_FOUND)
    assert await bench.lease(9) == []
    moved = await bench.lease(9, revision="r2")
    assert [job.record.id for job in moved] == [*free, same]
    assert {job.record.job.version for job in moved} == {"2"}
    assert [job.record.moved_from for job in moved] == ["1"] * len(free) + [""]


async def test_jobs_of_a_version_that_became_another_revision_stay_with_it(bench: Bench) -> None:
    free, pinned = await bench.submit(), await bench.submit(pin="1")
    other = await bench.submit(pin="3")
    gone = await bench.submit(pin="4")
    served = {"1": "r1b", "2": "r2", "3": "r3"}
    move = calls.move_version("m", "r1", "r2", "2", served)
    assert await bench.run(move) == Moved(3, 1, 0)
    assert [each.record.id for each in await bench.lease(9, revision="r1b")] == [free, pinned]
    [third] = await bench.lease(9, revision="r3")
    assert (third.record.id, third.record.job.version) == (other, "3")
    assert await bench.state(gone) is JobState.FAILED


async def test_a_queue_that_is_served_is_not_moved(bench: Bench) -> None:
    await bench.submit()
    for served in ({"1": "r1"}, {}):
        to = "r2" if served else "r1"
        assert await bench.run(calls.move_version("m", "r1", to, "2", served)) == Moved(0, 0, 0)
    assert len(await bench.lease(9)) == 1


async def test_webhooks_are_told_of_the_states_that_they_want(bench: Bench) -> None:
    wanted = {"webhook": "https://x", "webhook_events": (JobState.SUCCEEDED,)}
    job = await bench.running(**wanted)
    due = calls.webhooks_due(hold_ms=60_000)
    assert await bench.run(due) == []
    await bench.run(commit_call(job))
    [told] = await bench.run(due)
    assert (told.record.id, told.state, told.tries) == (job.id, JobState.SUCCEEDED, 0)
    assert told.entered_ms == (await bench.record(job.id)).finished_ms
    assert await bench.run(due) == []
    bench.pass_ms(60_001)
    assert await bench.run(due) == [told]
    await bench.run(calls.webhook_told(told, 1, again_in_ms=100_000))
    bench.pass_ms(50_000)
    assert await bench.run(due) == []
    bench.pass_ms(50_001)
    assert [again.tries for again in await bench.run(due)] == [1]
    await bench.twice(calls.webhook_told(told, 2))
    bench.pass_ms(100_000)
    assert await bench.run(due) == []
    assert await bench.run(calls.undelivered_webhooks()) == []


async def test_webhooks_that_are_given_up_are_listed(bench: Bench) -> None:
    wanted = {"webhook": "https://x", "webhook_events": (JobState.SUCCEEDED, JobState.QUEUED)}
    due = calls.webhooks_due(hold_ms=1_000)
    ids = []
    for _ in range(2):
        job = await bench.running(**wanted)
        ids.append(job.id)
        await bench.run(commit_call(job))
        [told] = await bench.run(due)
        await bench.twice(calls.webhook_told(told, 3, gave_up="answered 500"))
    assert (await bench.run(calls.stats())).undelivered == 2
    first, second = await bench.run(calls.undelivered_webhooks())
    assert [second.job_id, first.job_id] == ids
    assert (first.model, first.state, first.tries) == ("m", JobState.SUCCEEDED, 3)
    assert first.reason == "answered 500"
    assert await bench.run(calls.undelivered_webhooks(before=first.id)) == [second]


async def test_what_is_to_be_told_of_an_erased_job_is_given_up(bench: Bench) -> None:
    job = await bench.submit(webhook="https://x", webhook_events=(JobState.CANCELED,))
    await bench.run(calls.cancel(job))
    assert (await bench.run(calls.stats())).webhooks == 1
    await bench.run(calls.forget(job))
    stats = await bench.run(calls.stats())
    assert (stats.webhooks, stats.undelivered) == (0, 1)
    [lost] = await bench.run(calls.undelivered_webhooks())
    assert (lost.job_id, lost.tries, lost.reason) == (job, 0, "the job was erased before")


async def test_a_state_that_comes_again_is_told_again(bench: Bench) -> None:
    wanted = {"webhook": "https://x", "webhook_events": (JobState.FAILED,)}
    due = calls.webhooks_due(hold_ms=1_000)
    seen: list[WebhookDue] = []
    for _ in range(2):
        job = (
            await bench.running(**wanted)
            if not seen
            else (await bench.lease(request="2"))[0].record
        )
        await bench.run(calls.fail(job.id, job.token, "model_error", "no", retryable=False))
        [told] = await bench.run(due)
        assert told.tries == 0
        await bench.run(calls.webhook_told(told, 4, again_in_ms=0))
        seen.append(told)
        bench.pass_ms(1_001)
        await bench.run(calls.retry(await bench.record(job.id)))
    assert seen[0].entered_ms < seen[1].entered_ms
    await bench.run(calls.webhook_told(seen[0], 5))  # of the first time: it says nothing of now
    assert [now.entered_ms for now in await bench.run(due)] == [seen[1].entered_ms]


async def test_figures_are_what_is_there(bench: Bench) -> None:
    await bench.submit(b"12345", priority=9)
    bench.pass_ms(5_000)
    await bench.submit(b"123", model="n", revision="r9")
    await bench.running(priority=1)
    stats = await bench.run(calls.stats())
    assert (stats.jobs, stats.bytes, stats.garbage) == (3, 10, 0)
    assert stats.states[JobState.QUEUED] == 2
    assert (stats.models["m"].queued, stats.models["m"].running) == (1, 1)
    assert set(stats.queues) == {("m", "r1"), ("n", "r9")}
    assert stats.queues["m", "r1"].waiting == 1
    assert 5_000 <= stats.queues["m", "r1"].oldest_age_ms < 60_000


async def test_totals_tell_what_became_of_all_jobs(bench: Bench) -> None:
    assert await bench.run(calls.totals()) == {}
    job = await bench.running()
    await bench.twice(calls.release(job.id, job.token))
    [again] = await bench.lease()
    await bench.run(calls.lose("h1"))
    assert await bench.run(calls.lose("h1")) == []
    bench.pass_ms(7_000)
    [last] = await bench.lease(holder="h2")
    bench.pass_ms(20_000)
    await bench.twice(commit_call(last.record))
    await bench.run(calls.cancel(await bench.submit()))
    totals = (await bench.run(calls.totals()))["m"]
    assert (totals.submitted, totals.leased) == (2, 3)
    assert (totals.lost, totals.released) == (1, 1)
    assert {state: spans.count for state, spans in totals.spent.items()} == {
        JobState.QUEUED: 4,
        JobState.RUNNING: 3,
        JobState.CANCELING: 0,
    }
    succeeded = totals.ended[JobState.SUCCEEDED]
    assert (succeeded.count, succeeded.counts[BOUNDS_MS.index(30_000)]) == (1, 1)
    assert 27.0 <= succeeded.total_s < 30.0
    assert totals.ended[JobState.CANCELED].count == 1
    assert again.record.id == job.id


async def test_totals_outlive_the_jobs_and_go_on(bench: Bench) -> None:
    job = await bench.submit()
    await bench.run(calls.cancel(job))
    await bench.run(calls.forget(job))
    assert await bench.run(calls.totals()) == {}
    assert bench.redis.pttl(f"{KEYS.jobs}:totals:m") > HOUR_MS
    await bench.submit()
    assert (await bench.run(calls.totals()))["m"].submitted == 2
    assert bench.redis.pttl(f"{KEYS.jobs}:totals:m") == -1


# The server's troubles ----------------------------------------------------------------------------


async def test_a_server_that_forgot_our_scripts_learns_them_again(bench: Bench) -> None:
    await bench.submit()
    bench.redis.script_flush()
    assert len(await bench.lease()) == 1


async def test_a_call_with_a_bug_is_an_error_of_its_own(bench: Bench) -> None:
    nonsense: Call[Any] = Call("lease", (), lambda raw: raw)
    with pytest.raises(StateStoreError, match="lease"):
        await bench.run(nonsense)
    odd: Call[Any] = Call("get", ("x",), lambda raw: raw["x"])
    with pytest.raises(StateStoreError, match="no sense"):
        await bench.run(odd)


async def test_a_full_server_takes_no_more_but_goes_on(bench: Bench) -> None:
    job = await bench.running()
    waiting = await bench.submit()
    bench.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreFullError):
            await bench.run(submit_call())
        output = [(Content(TEXT, 4), b"part")]
        beat = calls.heartbeat(job.id, job.token, 1, LEASE_MS, Progress(0.5), output)
        assert await bench.run(beat) is Beat.CONTINUE
        assert await bench.run(commit_call(job)) is JobState.SUCCEEDED
        [leased] = await bench.lease()
        assert leased.record.id == waiting
        assert await bench.run(fail_call(leased.record, retryable=False)) is JobState.FAILED
        assert await bench.run(calls.retry(await bench.record(waiting))) is JobState.QUEUED
        [leased] = await bench.lease()
        bench.pass_ms(LEASE_MS + 1)
        assert await bench.run(reclaim_call()) == [(waiting, JobState.QUEUED)]
        await bench.run(calls.move_version("m", "r1", "r2", "2"))
        assert await bench.run(calls.cancel(waiting)) is JobState.CANCELED
        assert await bench.run(calls.forget(waiting)) is None
        bench.pass_ms(25 * HOUR_MS)
        await bench.run(calls.collect())
        assert await bench.run(calls.get(job.id)) is None
    finally:
        bench.redis.config_set("maxmemory", "0")


async def test_results_beyond_the_room_are_refused_until_they_are_blobs(bench: Bench) -> None:
    job = await bench.running()
    body = b"x" * (calls.SMALL_BYTES + 1)
    limits = {"bytes_max": len(body) - 1}
    commit = calls.commit(job.id, job.token, Content(TEXT, len(body)), body, **limits)
    with pytest.raises(StoreFullError):
        await bench.twice(commit)
    assert await bench.state(job.id) is JobState.RUNNING
    blob = calls.commit(job.id, job.token, Content(TEXT, len(body), "a-blob"), b"", **limits)
    assert await bench.twice(blob) is JobState.SUCCEEDED


async def test_a_result_may_take_its_payloads_place_and_a_small_one_any(bench: Bench) -> None:
    body = b"x" * (calls.SMALL_BYTES + 1)
    large = await bench.running(body=body)
    small = await bench.running()
    for job, result in ((large, body), (small, body[1:])):
        commit = calls.commit(job.id, job.token, Content(TEXT, len(result)), result, bytes_max=1)
        assert await bench.twice(commit) is JobState.SUCCEEDED


async def test_outputs_beyond_the_room_are_told_as_blobs_or_in_each_others_place(
    bench: Bench,
) -> None:
    job = await bench.running()
    large, small = b"x" * (calls.SMALL_BYTES + 1), b"x" * calls.SMALL_BYTES
    outputs = [(Content(TEXT, len(body)), body) for body in (large, small)]

    def beat(number: int, bytes_max: int = 1) -> Call[Beat]:
        lease = (job.id, job.token, number, LEASE_MS, Progress(number / 30))
        return calls.heartbeat(*lease, outputs, bytes_max=bytes_max)

    assert await bench.twice(beat(1)) is Beat.FULL
    told = [
        event.output.size_bytes for event in await bench.run(calls.events(job.id)) if event.output
    ]
    assert told == [len(small)]
    outputs[0] = (Content(TEXT, len(large), "a-blob"), b"")
    for number in range(2, 20):
        assert await bench.twice(beat(number)) is Beat.CONTINUE
    events = await bench.run(calls.events(job.id))
    assert len(events) == LIMITS["events_if_full"]
    assert (await bench.record(job.id)).progress == 19 / 30
    assert await bench.run(beat(20, bytes_max=1 << 20)) is Beat.CONTINUE
    more = await bench.run(calls.events(job.id))
    assert len(more) == len(events) + 2


async def test_a_full_server_takes_large_results_and_outputs_as_blobs_only(bench: Bench) -> None:
    job = await bench.running()
    body = b"x" * 2_000
    content = Content(TEXT, len(body))
    bench.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreFullError):
            await bench.run(calls.commit(job.id, job.token, content, body))
        beat = calls.heartbeat(job.id, job.token, 1, LEASE_MS, None, [(content, body)])
        assert await bench.run(beat) is Beat.FULL
        blob = Content(TEXT, len(body), "a-blob")
        assert await bench.run(calls.commit(job.id, job.token, blob, b"")) is JobState.SUCCEEDED
    finally:
        bench.redis.config_set("maxmemory", "0")

"""What outlives the server: it is killed without warning while jobs are submitted and run.

Beside it: what each kind of server says its acknowledgements are worth, and hints over pub/sub.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis import Redis

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.answers import LeasedJobs, Submitted
from penstock.shared.jobs.blocking_store import BlockingJobStore, BlockingWakeUp
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.record import Content, JobState, NewJob
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from tests.contract.job_audit import audit
from tests.contract.redis_server import Server

Answer = TypeVar("Answer")

KEYS = Keys("durable")
TEXT = "text/plain"
JOBS = 400
KILLS = 3


@contextmanager
def a_server(**options: str) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), **options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def submit_call() -> Call[Submitted]:
    job = NewJob(id=new_job_id(), model="m", version="1", revision="r1")
    return calls.submit(job, Content(TEXT, 2), b"in")


def lease_call(holder: str, most: int = 1) -> Call[LeasedJobs]:
    return calls.lease("m", "r1", holder, new_job_id(), most=most, lease_ms=60_000, idle=True)


def insist(store: BlockingJobStore, call: Call[Answer]) -> Answer:
    """Send it until there is an answer, as every client of the store does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return store.run(call)
        except StateStoreError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class Workload:
    """Threads that submit and run jobs until all are done."""

    def __init__(self, url: str) -> None:
        self.submitted: list[str] = []
        self.commits: list[str] = []
        self.errors: list[BaseException] = []
        self._url = url
        self._threads = [threading.Thread(target=self._guarded, args=(self._submit,))]
        for number in range(2):
            hold = self._holder(f"h{number}")
            self._threads.append(threading.Thread(target=self._guarded, args=(hold,)))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _guarded(self, work: Callable[[BlockingJobStore], None]) -> None:
        store = BlockingJobStore(self._url, KEYS)
        try:
            work(store)
        except BaseException as error:
            self.errors.append(error)
        finally:
            store.close()

    def _submit(self, store: BlockingJobStore) -> None:
        for _ in range(JOBS):
            call = submit_call()
            self.submitted.append(insist(store, call).id)

    def _holder(self, name: str) -> Callable[[BlockingJobStore], None]:
        def hold(store: BlockingJobStore) -> None:
            while len(self.commits) < JOBS and not self.errors:
                for job in insist(store, lease_call(name, most=5)).jobs:
                    body = f"{name} {job.record.token}".encode()
                    content = Content(TEXT, len(body))
                    commit = calls.commit(job.record.id, job.record.token, content, body)
                    assert insist(store, commit) is JobState.SUCCEEDED
                    self.commits.append(job.record.id)

        return hold


def test_nothing_acknowledged_is_lost_when_the_server_is_killed() -> None:
    with a_server(appendfsync="always") as server:
        work = Workload(server.url)
        work.start()
        for kill in range(KILLS):
            while len(work.commits) < JOBS * (kill + 1) // (KILLS + 1) and not work.errors:
                time.sleep(0.01)
            server.kill()
            server.start()
        work.join()
        assert work.errors == []
        assert sorted(work.commits) == sorted(work.submitted)  # each exactly once
        with Redis.from_url(server.url) as client:
            there = audit(client, KEYS)
        jobs = [held for name, held in there.items() if name.startswith("job:")]
        assert len(jobs) == JOBS
        assert {(job[b"state"], job[b"attempts"]) for job in jobs} == {(b"succeeded", b"1")}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"appendfsync": "always"}, {Durability.ALWAYS}),
        ({"appendfsync": "everysec"}, {Durability.ASKED, Durability.EVERYSEC}),
        ({"appendfsync": "no"}, {Durability.NONE}),
        ({"appendonly": "no"}, {Durability.NONE}),
    ],
)
async def test_a_server_says_what_its_answers_are_worth(
    options: dict[str, str], expected: set[Durability]
) -> None:
    with a_server(**options) as server:
        store, blocking = JobStore(server.url, KEYS), BlockingJobStore(server.url, KEYS)
        try:
            durability = await store.durability()
            assert durability in expected
            assert await asyncio.to_thread(blocking.durability) is durability
            submitted = await store.run_many([submit_call() for _ in range(600)])
            assert [isinstance(each, Submitted) for each in submitted] == [True] * 600
            assert (await asyncio.to_thread(blocking.run, submit_call())).created
        finally:
            await store.close()
            blocking.close()


async def test_a_server_may_keep_its_configuration_to_itself() -> None:
    with a_server() as server:
        with Redis.from_url(server.url) as client:
            rights = ("~*", "&*", "+@all", "-config")
            client.execute_command("ACL", "SETUSER", "app", "on", ">x", *rights)
        url = server.url.replace("unix://", "unix://app:x@")
        store = JobStore(url, KEYS)
        assert await store.durability() in (Durability.ASKED, Durability.UNKNOWN)
        assert (await store.run(submit_call())).created
        await store.close()


async def test_an_outage_is_an_error_for_all_who_wait_and_ends_by_itself() -> None:
    with a_server() as server:
        store = JobStore(server.url, KEYS)
        first = await store.run(submit_call())
        server.kill()
        outcomes = await store.run_many([submit_call(), submit_call()])
        assert [type(outcome) for outcome in outcomes] == [StateStoreError] * 2
        await asyncio.to_thread(server.start)
        assert await store.run(calls.get(first.id)) is not None
        await store.close()


async def test_news_come_with_every_change_and_after_an_outage() -> None:
    with a_server() as server:
        store, news = JobStore(server.url, KEYS), JobNews(server.url, KEYS)
        listening = asyncio.create_task(news.run())
        job = (await store.run(submit_call())).id
        try:
            async with asyncio.timeout(30):
                with news.of(job) as changed, news.of(job) as also_changed:
                    await changed.wait()  # the subscription is there
                    changes: list[Call[Any]] = [lease_call("h"), calls.cancel(job)]
                    for call in changes:
                        changed.clear()
                        also_changed.clear()
                        await store.run(call)
                        await changed.wait()
                        await also_changed.wait()
                    changed.clear()
                    server.kill()
                    await asyncio.to_thread(server.start)
                    await changed.wait()  # look again
        finally:
            listening.cancel()
            await store.close()


def test_idle_holders_are_woken() -> None:
    with a_server() as server:
        store = BlockingJobStore(server.url, KEYS)
        wake_up = BlockingWakeUp(server.url, KEYS.job_queue("m", "r1"))
        assert wake_up.wait(5)  # once, since what came before was not heard
        assert not wake_up.wait(0.05)
        store.run(submit_call())
        store.run(submit_call())
        time.sleep(0.2)  # hints may come a little later than answers
        assert wake_up.wait(5)
        assert not wake_up.wait(0.05)  # one hint for what came together
        server.kill()
        assert not wake_up.wait(0.05)
        assert not wake_up.wait(0.05)
        server.start()
        assert wake_up.wait(5)
        wake_up.close()
        store.close()


def test_a_holder_is_told_when_a_job_that_it_runs_is_canceled() -> None:
    with a_server() as server:
        store = BlockingJobStore(server.url, KEYS)
        cancels = BlockingWakeUp(server.url, KEYS.job_holder("h1"))
        others = BlockingWakeUp(server.url, KEYS.job_holder("h2"))
        assert cancels.wait(5)
        assert others.wait(5)
        running = store.run(submit_call()).id
        store.run(lease_call("h1"))
        waiting = store.run(submit_call()).id
        store.run(calls.cancel(waiting))
        assert not cancels.wait(0.05)
        store.run(calls.cancel(running))
        assert cancels.wait(5)
        store.run(calls.cancel(running))
        assert not cancels.wait(0.05)
        assert not others.wait(0.05)
        cancels.close()
        others.close()
        store.close()


@pytest.mark.slow
async def test_throughput() -> None:
    """Prints figures; asserts none, since the machine may be busy."""
    count, batch = 5_000, 100
    with a_server(appendfsync="always") as server:
        store = JobStore(server.url, KEYS)
        began = time.perf_counter()
        await store.run_many([submit_call() for _ in range(count)])
        submitted = time.perf_counter()
        done = 0
        while done < count:
            jobs = (await store.run(lease_call("h", most=batch))).jobs
            result = Content(TEXT, 3)
            await store.run_many(
                [calls.commit(job.record.id, job.record.token, result, b"out") for job in jobs]
            )
            done += len(jobs)
        ended = time.perf_counter()
        await store.close()
        print(f"\n{count / (submitted - began):.0f} submits/s", end=", ")
        print(f"{count / (ended - submitted):.0f} leases and commits/s, appendfsync always")
        assert done == count

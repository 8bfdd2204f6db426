"""Jobs while all that runs, takes or keeps them dies: each ends, once, with its result."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.shared.jobs.calls import events
from penstock.shared.jobs.record import FINISHED
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from tests.e2e.folder import folder_system
from tests.e2e.system import LocalSystem, alive
from tests.support import mlflow_models
from tests.support.waiting import wait_until

SLEEP_MS = 120.0
REPLICAS = 2
CLIENTS = 16
PAUSE_S = 0.8
"""Between two submits of a client: so some are under way whatever dies, and some jobs wait."""

JOBS = range(10_000)
"""Numbers of jobs that outlive everything: as many are submitted as there is time for."""

STALLED_JOBS = range(10_000, 20_000)
JOBS_MIN = 50
"""Fewer would prove little."""

RECOVERY_S = 60.0
END_S = 180.0
"""Longest that all jobs may take, faults and all; what is lost would never end."""

STALL_S = 5.0
STALLS = 3
ANSWER_TIMEOUT_S = 4.0
"""Shorter than a stall: so a client does not know what became of its submit, and asks again."""


def body_of(number: int) -> bytes:
    tensor = {"name": "input-0", "datatype": "FP64", "shape": [1], "data": [float(number)]}
    return json.dumps({"inputs": [tensor]}).encode()


class Submitting:
    """Clients that submit each number once, with a key of its own, until it is accepted.

    Attributes:
        stopped: no further numbers; those that were begun are still accepted.
    """

    def __init__(self, system: LocalSystem, numbers: Sequence[int]) -> None:
        self._url = f"{system.url}/v2/models/m/jobs"
        self._numbers = iter(numbers)
        self.ids: dict[int, set[str]] = {}
        self.tries = 0
        self.stopped = False

    async def run(self, pause_s: float = 0.0) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            await asyncio.gather(*[self._client(session, pause_s) for _ in range(CLIENTS)])

    async def _client(self, session: aiohttp.ClientSession, pause_s: float) -> None:
        while not self.stopped:
            number = next(self._numbers)
            while not await self._submitted(session, number):
                await asyncio.sleep(random.uniform(0.1, 0.5))
            await asyncio.sleep(pause_s)

    async def _submitted(self, session: aiohttp.ClientSession, number: int) -> bool:
        self.tries += 1
        headers = {"idempotency-key": f"number-{number}"}
        try:
            async with session.post(self._url, data=body_of(number), headers=headers) as response:
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return False
        if response.status in (200, 202):  # 200: an earlier try was accepted, and is finished
            self.ids.setdefault(number, set()).add(json.loads(text)["id"])
            return True
        assert response.status in (500, 502, 503, 504), text
        return False


async def ended(system: LocalSystem, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every job once it is finished."""
    give_up = time.monotonic() + END_S
    found: dict[str, dict[str, Any]] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        while missing := [each for each in ids if each not in found]:
            assert time.monotonic() < give_up, f"{len(missing)} jobs have not ended: {missing[:3]}"
            for job_id in missing:
                path = f"{system.url}/v2/jobs/{job_id}?wait=5"
                async with session.get(path) as response:
                    document = await response.json()
                if document.get("state") in FINISHED:
                    found[job_id] = document
    return found


async def check_results(system: LocalSystem, ids: dict[int, set[str]]) -> None:
    """Each number has one job, and its result is the number's own."""
    assert [number for number, own in ids.items() if len(own) != 1] == [], "submitted twice"
    async with aiohttp.ClientSession() as session:
        for number, (job_id,) in ids.items():
            async with session.get(f"{system.url}/v2/jobs/{job_id}/result") as response:
                document = await response.json()
                assert response.status == 200, document
            assert document["outputs"][0]["data"] == [10.0 * number], (number, document)


async def endings(system: LocalSystem, ids: Sequence[str]) -> Counter[int]:
    """How often jobs have finished, by the store's own account."""
    file = system.system_file()
    store = JobStore(file["redis_url"], Keys(file["namespace"]))
    try:
        counts: Counter[int] = Counter()
        for job_id in ids:
            told = await store.run(events(job_id))
            counts[sum(event.state in FINISHED for event in told if event.state)] += 1
        return counts
    finally:
        await store.close()


def executions(notes: Path, among: range = JOBS) -> Counter[float]:
    """How often each job's number was executed, as the model noted; its trial has others."""
    numbers = [float(line) for line in notes.read_text().split()]
    return Counter(number for number in numbers if number in among)


def replica_pids(system: LocalSystem) -> list[int]:
    """Of the replicas that are ready."""
    try:
        (model,) = system.status()["models"]
    except (AssertionError, ValueError):
        return []
    found = [replica for revision in model["revisions"] for replica in revision["replicas"]]
    return [int(replica["pid"]) for replica in found if replica["state"] == "ready"]


def child(system: LocalSystem, kind: str) -> int:
    """The pid of the first process of a kind."""
    processes = system.system_file()["processes"]
    return int(processes[sorted(name for name in processes if name.startswith(kind))[0]])


def kill(system: LocalSystem, kind: str) -> None:
    """kill -9, and wait until another is there in its place."""
    pid = child(system, kind)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), 10, f"{kind} is gone")
    wait_until(lambda: child(system, kind) != pid, RECOVERY_S, f"{kind} is back")


def kill_everything(system: LocalSystem) -> None:
    """All processes at once, then `penstock up` again on what they left."""
    pids = system.processes()
    system.kill()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # its guardian was faster
    wait_until(lambda: not any(map(alive, pids)), 20, "everything is gone")
    system.start()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def notes(base: Path) -> Path:
    """The file in which the model notes what it executes."""
    (base / "notes").touch()
    return base / "notes"


@pytest.fixture(scope="module")
def system(base: Path, notes: Path) -> Iterator[LocalSystem]:
    """One gateway and two workers with a replica each, with the defaults."""
    system = folder_system(base, "--workers", "2")
    mlflow_models.noting(base / "models" / "m" / "1", SLEEP_MS, notes)
    (base / "models" / "m" / "tags.yaml").write_text(
        f"penstock.replicas: {REPLICAS}\npenstock.max_batch_size: 1\n"
    )
    system.start()
    wait_until(lambda: len(replica_pids(system)) == REPLICAS, RECOVERY_S, "all replicas are ready")
    try:
        yield system
    finally:
        assert system.stop() == 0, system.output


async def check_all_succeeded(system: LocalSystem, submitting: Submitting) -> None:
    """Each job that was accepted ends once, with its own result."""
    ids = [next(iter(own)) for own in submitting.ids.values()]
    assert len(ids) >= JOBS_MIN
    found = await ended(system, ids)
    states = Counter(document["state"] for document in found.values())
    failed = [document for document in found.values() if document["state"] != "succeeded"]
    attempts = sorted(Counter(document["attempts"] for document in found.values()).items())
    print(f"{len(ids)} jobs, {submitting.tries} submits: {dict(states)}, attempts {attempts}")
    assert states == {"succeeded": len(ids)}, failed[:3]
    await check_results(system, submitting.ids)
    assert await endings(system, ids) == {1: len(ids)}


@pytest.mark.timeout(300)
async def test_a_store_that_stalls_makes_no_job_twice(system: LocalSystem, notes: Path) -> None:
    async with aiohttp.ClientSession() as session:
        before = await listing(session, system)
    submitting = Submitting(system, STALLED_JOBS)
    task = asyncio.create_task(submitting.run(pause_s=PAUSE_S))
    for _ in range(STALLS):
        await asyncio.sleep(1.5)
        pid = child(system, "valkey")
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(STALL_S)
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(PAUSE_S)
    submitting.stopped = True
    await task
    await check_all_succeeded(system, submitting)
    jobs, done = len(submitting.ids), executions(notes, STALLED_JOBS)
    print(f"{STALLS} stalls of {STALL_S:.0f} s, {sum(done.values())} executions")
    assert len(done) == jobs
    async with aiohttp.ClientSession() as session:
        listed = await listing(session, system)
    assert len(listed) == len(set(listed)) == len(before) + jobs, "a job that nobody was told of"


@pytest.mark.timeout(600)
async def test_jobs_outlive_everything(system: LocalSystem, notes: Path) -> None:
    submitting = Submitting(system, JOBS)
    task = asyncio.create_task(submitting.run(pause_s=PAUSE_S))
    faults: list[Callable[[], None]] = [
        lambda: os.kill(replica_pids(system)[0], signal.SIGKILL),
        lambda: os.kill(replica_pids(system)[-1], signal.SIGKILL),
        lambda: kill(system, "worker"),
        lambda: kill(system, "gateway"),
        lambda: kill(system, "valkey"),
        lambda: kill_everything(system),
    ]
    for fault in faults:
        await asyncio.sleep(2.0)
        await asyncio.to_thread(fault)
        ready = lambda: len(replica_pids(system)) == REPLICAS  # noqa: E731
        await asyncio.to_thread(wait_until, ready, RECOVERY_S, "all replicas are ready")
    submitting.stopped = True
    await task
    await check_all_succeeded(system, submitting)
    done = executions(notes)
    print(f"{sum(done.values())} executions")
    assert len(done) == len(submitting.ids)


async def listing(session: aiohttp.ClientSession, system: LocalSystem) -> list[str]:
    """Ids of all jobs."""
    ids: list[str] = []
    cursor = ""
    while True:
        async with session.get(f"{system.url}/v2/jobs?limit=100&cursor={cursor}") as response:
            page = await response.json()
        ids += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if not cursor:
            return ids

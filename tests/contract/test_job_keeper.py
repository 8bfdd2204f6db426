"""The keeper of jobs against a real store, and webhooks to a real receiver."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from redis import Redis
from structlog.testing import capture_logs

from penstock.gateway.inference.types import DeployedModel
from penstock.gateway.jobs.keeper.keeper import PARTS, JobKeeper
from penstock.gateway.jobs.keeper.settings import JobKeeperSettings, webhook_settings
from penstock.gateway.jobs.metrics import JobsCollector
from penstock.gateway.webhooks.connections import tls_context
from penstock.gateway.webhooks.sender import WebhookSender
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.routing import ModelRoute, VersionRoute
from penstock.shared.jobs import calls
from penstock.shared.jobs.blobs import FAILURES_MAX
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.calls import Call
from penstock.shared.jobs.ids import new_job_id
from penstock.shared.jobs.record import Content, JobRecord, JobState, NewJob
from penstock.shared.jobs.store import JobStore
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.restarts import Restarts
from penstock.shared.store.keys import Keys
from tests.contract.job_audit import audit
from tests.contract.redis_server import Server
from tests.support.waiting import eventually
from tests.unit.gateway.webhooks.receivers import hang, receiver, status

KEYS = Keys("keeper")
TEXT = "text/plain"
KEY = b"a key of webhooks, 24+ bytes"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
LOOPBACK = ip_network("127.0.0.0/8")

NO_CONTENT = status(204, body=b"")

LEASE_MS = 300
PATIENCE_S = 30.0
"""For what takes a second at most on a machine that has nothing else to do."""


@pytest.fixture(scope="module")
def module_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), appendfsync="always")
        server.start()
        yield server
        server.kill()


@pytest.fixture
def server(module_server: Server) -> Server:
    with Redis.from_url(module_server.url) as client:
        client.flushall()
    return module_server


@dataclass
class Serving:
    """A gateway's service as far as jobs go."""

    table: dict[str, ModelRoute] = field(default_factory=dict)

    def routes(self) -> dict[str, ModelRoute]:
        return self.table

    def ready_counts(self) -> dict[str, int]:
        return {"r1": 2}

    def deployed_models(self) -> tuple[DeployedModel, ...]:
        return (DeployedModel("idle", (), ""),)

    def route(self, *versions: VersionRoute) -> None:
        self.table = {"m": ModelRoute(model="m", generation=1, versions=versions)}


class MemoryBlobs:
    """Blobs that are only names."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.stuck: set[str] = set()
        self.away = False
        self.answers = threading.Event()
        self.answers.set()

    def delete(self, names: Sequence[str]) -> list[str]:
        self.answers.wait()
        if self.away or self.stuck.issuperset(names[:FAILURES_MAX]):
            raise StateStoreError("the blobs are away")
        gone = [name for name in names if name not in self.stuck]
        self.names -= set(gone)
        return gone

    def sweep(self, older_than_s: float, known: Callable[[str], bool]) -> int:
        orphans = {name for name in self.names if not known(name.partition("-")[0])}
        self.names -= orphans
        return len(orphans)


def settings(**changes: Any) -> JobKeeperSettings:
    quick: dict[str, Any] = {
        "jobs_look_s": 0.05,
        "jobs_collect_s": 0.05,
        "jobs_totals_s": 0.1,
        "jobs_reclaim_gap_s": 20.0,
        "jobs_reclaim_grace_s": 0.0,
        "jobs_move_after_s": 0.3,
        "webhook_secrets": SecretStr(SECRET),
        "webhook_allow_networks": (LOOPBACK,),
        "webhook_retry_delays_s": (0.05, 0.05),
        "webhook_timeout_s": 1.0,
    }
    return JobKeeperSettings(**(quick | changes))


@dataclass
class Kept:
    """A store with a keeper that runs."""

    store: JobStore
    keeper: JobKeeper
    serving: Serving
    blobs: MemoryBlobs
    redis: Redis

    async def submit(self, **options: Any) -> str:
        given = {"id": new_job_id(), "model": "m", "version": "1", "revision": "r1"}
        payload = options.pop("payload", Content(TEXT, 2))
        body = b"" if payload.blob else b"in"
        return (await self.store.run(calls.submit(NewJob(**(given | options)), payload, body))).id

    async def lease(self, revision: str = "r1", lease_ms: int = 60_000) -> JobRecord | None:
        call = calls.lease("m", revision, "h1", new_job_id(), most=1, lease_ms=lease_ms, idle=True)
        jobs = (await self.store.run(call)).jobs
        return jobs[0].record if jobs else None

    async def running(self, **options: Any) -> JobRecord:
        await self.submit(**options)
        job = await self.lease()
        assert job is not None
        return job

    async def succeed(self, job: JobRecord) -> None:
        await self.store.run(calls.commit(job.id, job.token, Content(TEXT, 3), b"out"))

    async def record(self, job_id: str) -> JobRecord | None:
        view = await self.store.run(calls.get(job_id))
        return view.record if view else None

    async def reaches(self, job_id: str, state: JobState) -> JobRecord:
        async def is_there() -> JobRecord | None:
            record = await self.record(job_id)
            return record if record is not None and record.state is state else None

        return await eventually(is_there)  # type: ignore[no-any-return]

    def sample(self, name: str, **labels: str) -> float | None:
        registry = CollectorRegistry()
        registry.register(JobsCollector(self.keeper, self.serving))
        return registry.get_sample_value(name, labels)


@asynccontextmanager
async def kept(server: Server, **changes: Any) -> AsyncIterator[Kept]:
    """A keeper on a server, which must leave the store in order."""
    made = settings(**changes)
    store, blocking = JobStore(server.url, KEYS), BlockingJobStore(server.url, KEYS)
    webhooks = webhook_settings(made)
    assert webhooks is not None
    sender = WebhookSender(webhooks, SystemClock(), tls_context(), chance=lambda: 0.0)
    serving, blobs = Serving(), MemoryBlobs()
    keeper = JobKeeper(
        store,
        serving,
        made,
        SystemClock(),
        sender,
        blobs,
        lambda job_id: blocking.run(calls.get(job_id)) is not None,
    )
    running = asyncio.create_task(keeper.run(Restarts(PARTS)))
    with Redis.from_url(server.url) as redis:
        yield Kept(store, keeper, serving, blobs, redis)
        assert not running.done(), running
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await sender.close()
        await store.close()
        blocking.close()
        audit(redis, KEYS)


class StoreThatFailsUnforeseen(JobStore):
    """The first look at what it holds raises what nobody expects of a store."""

    failed = False

    async def run(self, call: Call[Any]) -> Any:
        if call.script == "stats" and not self.failed:
            self.failed = True
            raise AttributeError("'NoneType' object has no attribute 'writelines'")
        return await super().run(call)


async def test_what_fails_unforeseen_in_one_part_of_it_begins_again(server: Server) -> None:
    made = settings()
    store = StoreThatFailsUnforeseen(server.url, KEYS)
    restarts = Restarts(PARTS)
    keeper = JobKeeper(store, Serving(), made, SystemClock(), None, None, lambda _: True)
    running = asyncio.create_task(keeper.run(restarts))
    async with asyncio.timeout(PATIENCE_S):
        while not keeper.figures.reachable:
            await asyncio.sleep(0.01)
    assert restarts.counts == {"job_keeper": 1, "job_collector": 0, "job_courier": 0}
    running.cancel()
    await asyncio.wait({running})
    await store.close()


# Chores -------------------------------------------------------------------------------------------


async def test_lost_leases_are_reclaimed(server: Server) -> None:
    async with kept(server) as system:
        await system.submit()
        job = await system.lease(lease_ms=LEASE_MS)
        assert job is not None
        again = await system.reaches(job.id, JobState.QUEUED)
        assert (again.attempts, again.deaths) == (1, 0)


async def test_jobs_expire_and_are_collected(server: Server) -> None:
    async with kept(server) as system:
        job = await system.submit(queue_ttl_ms=200, result_ttl_ms=200)
        events = [JobState.QUEUED]

        async def is_gone() -> bool:
            record = await system.record(job)
            if record is not None and record.state is not events[-1]:
                events.append(record.state)
            return record is None

        await eventually(is_gone)
        assert events in ([JobState.QUEUED], [JobState.QUEUED, JobState.EXPIRED])
        assert system.redis.keys(f"{KEYS.jobs}:job:*") == []


async def test_blobs_go_with_their_jobs(server: Server) -> None:
    async with kept(server) as system:
        system.blobs.names |= {"a-1", "b-2"}
        system.blobs.away = True
        job = await system.submit(payload=Content(TEXT, 2, "a-1"), result_ttl_ms=1)
        await system.store.run(calls.cancel(job))
        await eventually(lambda: gone(system, job))
        assert "a-1" in system.blobs.names
        system.blobs.away = False
        await eventually(lambda: holds(lambda: "a-1" not in system.blobs.names))
        await eventually(lambda: holds(lambda: not system.redis.zcard(f"{KEYS.jobs}:garbage")))


async def test_blobs_that_cannot_be_deleted_hold_up_no_others(server: Server) -> None:
    async with kept(server) as system:
        system.blobs.stuck = {f"stuck-{each}" for each in range(FAILURES_MAX)}
        system.blobs.names = {"free", *system.blobs.stuck}
        waiting = {**dict.fromkeys(system.blobs.stuck, 1), "free": 2}
        system.redis.zadd(f"{KEYS.jobs}:garbage", waiting)
        await eventually(lambda: holds(lambda: system.blobs.names == system.blobs.stuck))


async def test_blobs_that_hang_hold_up_no_jobs(server: Server) -> None:
    async with kept(server) as system:
        system.blobs.answers.clear()
        try:
            for payload in (Content(TEXT, 2, "a-1"), Content(TEXT, 2)):
                job = await system.submit(payload=payload, result_ttl_ms=1)
                await system.store.run(calls.cancel(job))
                await eventually(partial(gone, system, job))
        finally:
            system.blobs.answers.set()


async def test_orphaned_blobs_are_swept(server: Server) -> None:
    async with kept(server, jobs_orphan_look_s=0.1) as system:
        job = await system.submit()
        system.blobs.names |= {f"{job}-1", f"{new_job_id()}-2"}
        await eventually(lambda: holds(lambda: system.blobs.names == {f"{job}-1"}))


async def gone(system: Kept, job_id: str) -> bool:
    return await system.record(job_id) is None


async def holds(condition: Callable[[], bool]) -> bool:
    return condition()


async def test_waiting_jobs_follow_their_version(server: Server) -> None:
    async with kept(server) as system:
        free, pinned = await system.submit(), await system.submit(pin="1")
        stays = await system.submit(version="2", revision="r2")
        system.serving.route(
            VersionRoute(version="3", revision="r3"), VersionRoute(version="2", revision="r2")
        )
        failed = await system.reaches(pinned, JobState.FAILED)
        assert failed.error_code == "version_not_found"
        record = await system.record(free)
        assert record is not None
        assert (record.job.version, record.job.revision) == ("3", "r3")
        left = await system.record(stays)
        assert left is not None
        assert left.job.revision == "r2"


async def test_two_keepers_do_each_thing_once(server: Server) -> None:
    async with kept(server) as system, kept(server) as other:
        jobs = [await system.submit(max_attempts=2) for _ in range(20)]
        for _ in jobs:
            assert await system.lease(lease_ms=LEASE_MS) is not None
        for job in jobs:
            assert (await system.reaches(job, JobState.QUEUED)).attempts == 1
        totals = (await other.store.run(calls.totals()))["m"]
        assert (totals.lost, totals.leased) == (20, 20)


# The store's troubles -----------------------------------------------------------------------------


async def test_an_outage_is_told_once_and_survived() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), appendfsync="always")
        server.start()
        with capture_logs() as logs:
            async with kept(server) as system:
                job = await system.submit(queue_ttl_ms=3_000)
                waiting = partial(system.sample, "penstock_jobs_waiting", model="m")
                await eventually(lambda: holds(lambda: waiting() == 1))
                server.kill()
                await eventually(lambda: holds(lambda: not system.keeper.figures.reachable))
                assert system.sample("penstock_gateway_job_store_reachable") == 0
                assert waiting() == 1
                await asyncio.sleep(2.0)
                server.start()
                await system.reaches(job, JobState.EXPIRED)
                await eventually(lambda: holds(lambda: system.keeper.figures.reachable))
        server.kill()
    failing = [each["event"] for each in logs if "failing" in each["event"]]
    assert sorted(failing) == sorted(set(failing))
    assert len(failing) <= 4


async def test_without_jobs_little_is_asked_and_nothing_written(server: Server) -> None:
    defaults = {name: field.default for name, field in JobKeeperSettings.model_fields.items()}
    kinds = ("jobs_look_s", "jobs_collect_s", "jobs_totals_s")
    async with kept(server, **{name: defaults[name] for name in kinds}) as system:
        await eventually(lambda: holds(lambda: system.keeper.figures.reachable))
        before = commands(system.redis)
        await asyncio.sleep(3.0)
        after = commands(system.redis)
        assert after["evalsha"] - before["evalsha"] <= 3 * 4
        assert system.redis.keys("*") == []


def commands(redis: Redis) -> dict[str, int]:
    counts: Any = redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): told["calls"] for name, told in counts.items()}


# Webhooks -----------------------------------------------------------------------------------------


def hook(port: int, *events: JobState) -> dict[str, Any]:
    return {"webhook": f"http://127.0.0.1:{port}/hook", "webhook_events": events}


async def test_a_receiver_that_fails_twice_and_then_accepts(server: Server) -> None:
    answers = (status(500), status(503), NO_CONTENT)
    async with receiver(*answers) as there, kept(server) as system:
        job = await system.running(**hook(there.port, JobState.SUCCEEDED))
        await system.succeed(job)
        await eventually(lambda: is_told(system))
        assert system.sample("penstock_gateway_webhooks_total", result="delivered") == 1
        assert system.sample("penstock_gateway_webhooks_total", result="failed") == 2
    assert len(there.received) == 3
    assert len({each.headers["webhook-id"] for each in there.received}) == 1
    for each in there.received:
        signed = "{webhook-id}.{webhook-timestamp}.".format(**each.headers).encode() + each.body
        expected = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        assert each.headers["webhook-signature"] == f"v1,{expected}"
        said = orjson.loads(each.body)
        assert (said["type"], said["data"]["id"]) == ("job.succeeded", job.id)


async def is_told(system: Kept) -> bool:
    return (await system.store.run(calls.stats())).webhooks == 0


async def test_a_receiver_that_never_accepts_is_given_up(server: Server) -> None:
    async with receiver(status(500)) as there, kept(server) as system:
        job = await system.running(**hook(there.port, JobState.SUCCEEDED))
        await system.succeed(job)
        await eventually(lambda: is_told(system))
        [given_up] = await system.store.run(calls.undelivered_webhooks())
        assert (given_up.job_id, given_up.tries) == (job.id, 3)
        assert "answered 500" in given_up.reason
        assert len(there.received) == 3
        await eventually(
            lambda: holds(lambda: system.sample("penstock_jobs_webhooks_undelivered") == 1)
        )


async def test_addresses_inside_are_refused(server: Server) -> None:
    async with receiver(NO_CONTENT) as there, kept(server, webhook_allow_networks=()) as system:
        job = await system.running(**hook(there.port, JobState.SUCCEEDED))
        await system.succeed(job)
        await eventually(lambda: is_told(system))
        [given_up] = await system.store.run(calls.undelivered_webhooks())
        assert "loopback" in given_up.reason
        assert there.received == []


async def test_a_receiver_that_hangs_does_not_keep_others_waiting(server: Server) -> None:
    async with (
        receiver(hang) as slow,
        receiver(NO_CONTENT) as quick,
        kept(server, webhook_timeout_s=20.0) as system,
    ):
        for port in (slow.port, quick.port):
            job = await system.running(**hook(port, JobState.SUCCEEDED))
            await system.succeed(job)
        await eventually(lambda: holds(lambda: len(quick.received) == 1))
        assert len(slow.received) == 1


async def test_two_gateways_tell_each_state_once(server: Server) -> None:
    events = (JobState.RUNNING, JobState.SUCCEEDED)
    async with receiver(NO_CONTENT) as there, kept(server) as system, kept(server):
        for _ in range(30):
            await system.succeed(await system.running(**hook(there.port, *events)))
        await eventually(lambda: is_told(system))
        ids = [each.headers["webhook-id"] for each in there.received]
        assert len(ids) == len(set(ids))
        succeeded = [each for each in ids if "-succeeded-" in each]
        assert len(succeeded) == 30


# Metrics ------------------------------------------------------------------------------------------


async def test_metrics_tell_what_the_store_holds(server: Server) -> None:
    async with kept(server) as system:
        system.serving.route(VersionRoute(version="1", revision="r1"))
        await system.succeed(await system.running())
        for _ in range(3):
            await system.submit()
        await system.lease()

        def figures() -> list[float | None]:
            names = ("attempts_total", "waiting", "in_flight")
            of_model = [system.sample(f"penstock_jobs_{name}", model="m") for name in names]
            return [*of_model, system.sample("penstock_jobs_records")]

        await eventually(lambda: holds(lambda: figures() == [2, 2, 1, 4]))
        assert system.sample("penstock_jobs_waiting", model="idle") == 0
        oldest = system.sample("penstock_jobs_oldest_seconds", model="m")
        assert oldest is not None
        assert 0 <= oldest < PATIENCE_S
        backlog = system.sample("penstock_jobs_backlog_seconds", model="m")
        assert backlog is not None
        assert backlog >= 0
        labels = {"model": "m", "state": "succeeded"}
        assert system.sample("penstock_jobs_finished_total", **labels) == 1
        assert system.sample("penstock_jobs_seconds_count", **labels) == 1
        running = {"model": "m", "state": "running"}
        assert system.sample("penstock_jobs_state_seconds_count", **running) == 1

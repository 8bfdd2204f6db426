"""Whoever meets a store that may lose jobs is told: in answers, logs and commands."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from penstock.deploy.local.jobs.document import JobDocument
from penstock.deploy.local.jobs.submit import warning_of
from penstock.gateway.jobs.keeper.keeper import JobKeeper
from penstock.gateway.jobs.keeper.settings import JobKeeperSettings
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.durability import Durability
from penstock.shared.jobs.store import JobStore
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.restarts import Restarts
from penstock.shared.store.keys import Keys
from penstock.worker.job_port.leases import Leases
from penstock.worker.job_port.store_calls import StoreCalls
from tests.contract.job_bench import bench_at
from tests.contract.redis_server import Server
from tests.contract.test_job_keeper import Serving
from tests.fault.gateway_process import gateway_process
from tests.support.commands import penstock

WITHOUT_PERSISTENCE = {"appendonly": "no", "save": ""}
DURABLE = {"appendfsync": "always"}
KEYS = Keys("told")


@contextmanager
def serving(options: dict[str, str]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), **options)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.mark.parametrize(("options", "word"), [(WITHOUT_PERSISTENCE, "none"), (DURABLE, "always")])
async def test_answers_that_change_something_say_what_they_are_worth(
    options: dict[str, str], word: str
) -> None:
    with serving(options) as server:
        async with bench_at(server.url) as bench:
            submitted = await bench.submit()
            assert submitted.json()["durability"] == word
            path = submitted.headers["location"]
            assert "durability" not in await bench.job(path)
            canceled = await bench.ask("POST", f"{path}/cancel")
            assert canceled.json()["durability"] == word


@pytest.mark.parametrize(("options", "promised"), [(WITHOUT_PERSISTENCE, False), (DURABLE, True)])
async def test_a_store_that_is_away_is_not_said_to_lose_nothing_unless_it_is_so(
    options: dict[str, str], promised: bool
) -> None:
    with serving(options) as server:
        async with bench_at(server.url) as bench:
            path = (await bench.submit()).headers["location"]
            server.kill()
            away = await bench.ask("GET", path)
            assert away.status_code == 503
            assert ("nothing that it accepted is lost" in away.json()["error"]) is promised


async def test_what_a_store_promises_is_found_out_anew_when_another_one_is_there() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        durable, not_durable = (
            Server(Path(folder), **each) for each in (DURABLE, WITHOUT_PERSISTENCE)
        )
        durable.start()
        async with bench_at(durable.url) as bench:
            assert (await bench.submit()).json()["durability"] == "always"
            durable.kill()
            await asyncio.to_thread(not_durable.start)
            try:
                assert (await bench.submit()).json()["durability"] == "none"
            finally:
                not_durable.kill()


def test_a_job_port_finds_it_out_anew_too() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        durable, not_durable = (
            Server(Path(folder), **each) for each in (DURABLE, WITHOUT_PERSISTENCE)
        )
        durable.start()
        store = BlockingJobStore(durable.url, KEYS)
        store.run(calls.cancel("unknown"))
        durable.kill()
        not_durable.start()
        try:
            with pytest.raises(StateStoreError, match="promises something else"):
                store.run(calls.cancel("unknown"))
            assert store.run(calls.cancel("unknown")) is None
        finally:
            not_durable.kill()
            store.close()


async def test_the_keeper_says_it_at_the_start_and_when_it_changed() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder, capture_logs() as logs:
        durable, not_durable = (
            Server(Path(folder), **each) for each in (DURABLE, WITHOUT_PERSISTENCE)
        )
        store = JobStore(durable.url, KEYS)
        settings = JobKeeperSettings(jobs_look_s=0.01)
        keeper = JobKeeper(store, Serving(), settings, SystemClock(), None, None, lambda _: True)
        running = asyncio.create_task(keeper.run(Restarts(("job_keeper", "job_collector"))))
        said: list[int] = []
        async with asyncio.timeout(60):
            for server in (durable, durable, not_durable):
                await asyncio.to_thread(server.start)
                while not keeper.figures.reachable:
                    await asyncio.sleep(0.01)
                server.kill()
                while keeper.figures.reachable:
                    await asyncio.sleep(0.01)
                said.append(len([each for each in logs if each["event"] == "job store"]))
        running.cancel()
        await asyncio.wait({running})
        await store.close()
    assert said == [1, 1, 2]  # it said nothing where the same came back
    first, second = (each for each in logs if each["event"] == "job store")
    assert (first["log_level"], first["durability"]) == ("info", "always")
    assert (second["log_level"], second["durability"]) == ("warning", "none")


async def test_a_gateway_says_it_as_it_starts() -> None:
    with serving(WITHOUT_PERSISTENCE) as server:
        async with gateway_process(redis_url=server.url) as gateway, asyncio.timeout(60):
            while '"durability": "none"' not in gateway.log.replace('":"', '": "'):
                assert gateway.process.poll() is None, gateway.log
                await asyncio.sleep(0.05)


def test_a_job_port_says_it_once() -> None:
    with serving(WITHOUT_PERSISTENCE) as server, capture_logs() as logs:
        store = BlockingJobStore(server.url, KEYS)
        owed = StoreCalls(store, Leases(15.0, 3.0), 15.0)
        owed.tell_loss(store.durability())
        owed.tell_loss(store.durability())
        store.close()
    assert [each["durability"] for each in logs] == ["none"]


def test_commands_say_it() -> None:
    with serving(WITHOUT_PERSISTENCE) as server:
        shown = penstock("status", "--redis-url", server.url)
        assert f"state store: none: {Durability.NONE.meaning}" in shown.stdout
        told = json.loads(penstock("status", "--json", "--redis-url", server.url).stdout)
        assert told["store"] == {"durability": "none"}
    with serving(DURABLE) as server:
        assert "state store" not in penstock("status", "--redis-url", server.url).stdout


@pytest.mark.parametrize(
    ("word", "warned"),
    [("none", True), ("everysec", True), ("unknown", True), ("always", False), (None, False)],
)
def test_a_submit_warns_of_a_loss_that_may_come(word: str | None, warned: bool) -> None:
    job = JobDocument.model_validate(
        {"id": "1", "state": "queued", "model": "m", "durability": word}
    )
    assert bool(warning_of(job.durability)) is warned

"""`penstock off` on a real store, as a process of its own: what it says, asks and writes."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis import Redis

from penstock.shared.contracts.deployment import Phase, SyncReport, VersionStatus
from penstock.shared.contracts.routing import RoutingTable
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.contract.redis_server import Server
from tests.e2e.system import own_environment
from tests.support.commands import command_server, exit_code, penstock
from tests.unit.worker.agent_bench import deployment

TTL_S = 600.0
ANSWER_TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.kill()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStateStore]:
    """Version 1 of `digits` serves, and is gone; version 0 is superseded by it."""
    with Redis.from_url(server.url) as redis:
        redis.flushall()
    made = RedisStateStore(server.url, Keys("penstock"))
    lease = await made.acquire_lease("test", TTL_S)
    assert lease is not None
    desired = deployment(["digits"], 1)
    revisions = {
        name: each.model_copy(update={"phase": Phase.SERVING})
        for name, each in desired.revisions.items()
    }
    await made.apply(lease, desired.model_copy(update={"revisions": revisions}), RoutingTable())
    (revision,) = revisions.values()
    statuses = (
        VersionStatus(model="digits", version=revision.version, status="serving", gone=True),
        VersionStatus(model="digits", version="0", status="superseded"),
    )
    await made.report_sync(SyncReport(sync="s", node="n", pid=1, statuses=statuses), TTL_S)
    yield made
    await made.close()


def off(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return penstock("off", *arguments, "--redis-url", server.url)


async def version_of(store: RedisStateStore) -> str:
    (revision,) = (await store.deployment()).revisions.values()
    return revision.version


async def test_without_a_terminal_it_says_what_would_end_and_refuses(
    server: Server, store: RedisStateStore
) -> None:
    done = off(server, "digits")
    assert done.returncode == 2
    assert f"version {await version_of(store)}: serving, 0 replicas ready" in done.stdout
    assert "the registry has it no more" in done.stdout
    assert "version 0: superseded, not deployed" in done.stdout
    assert "nothing else of it is deployed" in done.stdout
    assert "the input is no terminal; --yes" in done.stderr
    assert await store.turned_off() == frozenset()


async def test_yes_turns_off_all_that_could_serve(server: Server, store: RedisStateStore) -> None:
    done = off(server, "digits", "--yes")
    assert done.returncode == 0, done.stderr
    version = await version_of(store)
    assert await store.turned_off() == {("digits", version), ("digits", "0")}
    assert off(server, "digits", "--undo", "--version", "0").returncode == 0
    assert await store.turned_off() == {("digits", version)}
    assert off(server, "digits", "--undo").returncode == 0
    assert await store.turned_off() == frozenset()
    nothing = off(server, "digits", "--undo")
    assert nothing.returncode == 1
    assert "nothing of digits is turned off" in nothing.stderr


async def test_one_version_is_turned_off(server: Server, store: RedisStateStore) -> None:
    done = off(server, "digits", "--version", "0", "--yes")
    assert done.returncode == 0
    assert f"version {await version_of(store)} goes on to serve" in done.stdout
    assert await store.turned_off() == {("digits", "0")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("digit",), "digit is not deployed; deployed: digits"),
        (("digits", "--version", "7"), "version 7 of digits is not deployed"),
    ],
)
async def test_what_is_not_there_is_not_turned_off(
    server: Server, store: RedisStateStore, arguments: tuple[str, ...], words: str
) -> None:
    done = off(server, *arguments, "--yes")
    assert done.returncode == 1
    assert words in done.stderr
    assert await store.turned_off() == frozenset()


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\n", 1)])
async def test_at_a_terminal_it_asks(
    server: Server, store: RedisStateStore, answer: bytes, code: int
) -> None:
    await asyncio.to_thread(_answer, server, answer, code)
    assert bool(await store.turned_off()) == (code == 0)


def _answer(server: Server, answer: bytes, code: int) -> None:
    """Give an answer at a terminal; the command must end with this code."""
    leader, follower = pty.openpty()
    arguments = ("off", "digits", "--redis-url", server.url)
    ended = command_server().begin(arguments, [follower] * 3, own_environment())
    os.close(follower)
    shown = b""
    try:
        while b"End it? [y/N]" not in shown:
            ready, _, _ = select.select([leader], [], [], ANSWER_TIMEOUT_S)
            assert ready, shown
            shown += os.read(leader, 4096)
        assert b"This ends digits:" in shown
        os.write(leader, answer)
        assert exit_code(ended, ANSWER_TIMEOUT_S) == code
    finally:
        os.close(leader)

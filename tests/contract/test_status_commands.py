"""`penstock wait` and `penstock status` on a real store, as processes of their own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import SyncReport, VersionStatus
from penstock.shared.contracts.history import EventKind, HistoryEvent
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.contract.redis_server import Server
from tests.e2e.system import PENSTOCK, own_environment
from tests.support.commands import penstock

TTL_S = 600.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.kill()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[RedisStateStore]:
    made = RedisStateStore(server.url, Keys("penstock"))
    yield made
    await made.close()


async def tell(store: RedisStateStore, *statuses: tuple[str, str, str]) -> None:
    """Report statuses of versions of `digits`, as a registry_sync that leads does."""
    told = tuple(
        VersionStatus(model="digits", version=version, status=word, message=message)
        for version, word, message in statuses
    )
    await store.report_sync(SyncReport(sync="s", node="n", pid=1, statuses=told), TTL_S)


def wait(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return penstock("wait", "digits", "--redis-url", server.url, *arguments)


async def test_a_wait_tells_what_changes_and_ends_with_the_goal(
    server: Server, store: RedisStateStore
) -> None:
    await tell(store, ("5", "loading", "artifacts are being fetched"))
    command = [*PENSTOCK, "wait", "digits", "--version", "5", "--redis-url", server.url]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, env=own_environment()
    )
    assert process.stdout is not None
    progress = await process.stdout.readline()
    assert progress == b"digits: version 5 is loading: artifacts are being fetched\n"
    await tell(store, ("5", "serving", ""))
    rest = await process.stdout.read()
    assert rest.splitlines()[-1] == b"digits: version 5 is serving"
    assert await process.wait() == 0


async def test_a_version_that_can_never_be_served_ends_a_wait_with_its_reason(
    server: Server, store: RedisStateStore
) -> None:
    await tell(store, ("5", "invalid", "the environment lacks packages: shap"))
    done = wait(server, "--version", "5", "--timeout", "0")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == (
        "digits: failed for good: version 5 is invalid: the environment lacks packages: shap"
    )


async def test_a_wait_that_is_too_short_says_how_far_it_came(
    server: Server, store: RedisStateStore
) -> None:
    await tell(store, ("5", "failed", "no memory"))
    done = wait(server, "--timeout", "0")
    assert done.returncode == 3
    assert done.stdout == "digits: not serving after 0 s: version 5 is failed: no memory\n"


async def test_what_nobody_asks_for_any_more_is_retired(
    server: Server, store: RedisStateStore
) -> None:
    await tell(store, ("5", "serving", ""), ("4", "draining", ""))
    assert wait(server, "--for", "retired", "--version", "4", "--timeout", "0").returncode == 3
    await tell(store, ("5", "serving", ""))
    assert wait(server, "--for", "retired", "--version", "4", "--timeout", "0").returncode == 0


def test_nothing_is_called_retired_while_nobody_tells_what_is_asked_for(server: Server) -> None:
    done = wait(server, "--for", "retired", "--timeout", "0", "--namespace", "another")
    assert done.returncode == 3
    assert "no registry_sync tells what is asked for" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["wait"],
        ["wait", "digits", "--for", "gone"],
        ["wait", "digits", "--timeout", "-1"],
        ["wait", "digits", "--timeout", "nan"],
        ["wait", "digits", "--redis-url", "localhost"],
    ],
)
def test_a_mistake_in_a_wait_exits_with_2(arguments: list[str]) -> None:
    assert penstock(*arguments).returncode == 2


def test_a_store_that_is_away_is_waited_for() -> None:
    done = penstock("wait", "digits", "--redis-url", "redis://127.0.0.1:1/0", "--timeout", "0")
    assert done.returncode == 3
    assert "not serving after 0 s: the state store does not answer" in done.stdout


@pytest.mark.parametrize(("word", "code"), [("invalid", 1), ("loading", 3)])
async def test_a_script_learns_from_the_exit_code_of_a_status(
    server: Server, store: RedisStateStore, word: str, code: int
) -> None:
    await tell(store, ("5", word, "its reason"))
    arguments = ["status", "--redis-url", server.url]
    done = penstock(*arguments, "--exit-code")
    assert done.returncode == code
    assert "digits/5: its reason" in done.stdout
    assert penstock(*arguments).returncode == 0


def history(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return penstock("history", "digits", "--redis-url", server.url, *arguments)


async def test_history_tells_who_switched_what_and_what_failed(
    server: Server, store: RedisStateStore
) -> None:
    assert history(server, "--json").returncode == 1
    nothing = history(server)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr == "penstock: nothing was written down of digits\n"
    at = 1_800_000_000.0
    reason = "its replica was killed: " + "out of memory " * 30
    events = [
        HistoryEvent(at=at, kind=EventKind.FAILED, model="digits", version="2", why=reason),
        HistoryEvent(
            at=at + 60,
            kind=EventKind.SWITCHED,
            model="digits",
            version="3",
            before="1",
            who="alias champion = 3",
            registered_by="ann",
        ),
    ]
    lease = await store.acquire_lease("a", TTL_S)
    assert lease is not None
    await store.write_history(lease, {}, events)
    rows = [
        line.split(maxsplit=2) for line in history(server).stdout.splitlines() if "2027" in line
    ]
    assert [row[:2] for row in rows] == [
        ["2027-01-15T08:00:00Z", "failed"],
        ["2027-01-15T08:01:00Z", "switched"],
    ]
    assert reason.strip() in rows[0][2]  # piped: the whole of it in one line
    assert "1 -> 3" in rows[1][2]
    assert "alias champion = 3; registered by ann" in rows[1][2]
    last = history(server, "--limit", "1", "--json")
    assert last.returncode == 0
    assert json.loads(last.stdout) == {
        "model": "digits",
        "events": [events[1].model_dump(mode="json")],
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["history"], 2, "MODEL"),
        (["history", "digits", "--limit", "0"], 2, "--limit"),
        (["history", "digits", "--data-dir", "/nowhere"], 1, "/nowhere"),
        (["history", "digits", "--redis-url", "redis://127.0.0.1:1/0"], 1, "state store"),
        (["history", "digits", "--redis-url", "localhost"], 1, "state store"),
    ],
)
def test_a_history_that_cannot_be_read_says_why(
    arguments: list[str], code: int, words: str
) -> None:
    done = penstock(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr

"""The embedded store: long paths, adoption, recovery after kill -9."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system import valkey
from penstock.deploy.local.system.data_dir import DataDir, lock_data_dir
from penstock.deploy.local.system.runtime_dir import RuntimeDir
from penstock.deploy.local.up.announcer import Announcer
from penstock.deploy.local.up.guard import Guard
from penstock.deploy.local.up.launcher import Launcher, Part, until
from penstock.deploy.local.up.processes import ProcessSpec
from penstock.deploy.local.up.restart_policy import RestartPolicy
from penstock.shared.store.client import connect
from penstock.worker.agent.devices import memory_bytes
from tests.e2e.system import alive

TIMEOUT_S = 20.0


class Store:
    """An embedded store and the launcher that looks after it."""

    def __init__(self, data_dir: DataDir, memory: str | None = None) -> None:
        self.data_dir = data_dir
        self.runtime = RuntimeDir.make(data_dir.path)
        self.url = valkey.url_of(self.runtime)
        self.spec = valkey.valkey_spec(data_dir, self.runtime, memory)
        self.restarted = asyncio.Event()
        self.guard = Guard(lock_data_dir(data_dir))
        policy = RestartPolicy(first_s=0.05)
        self.launcher = Launcher(self.guard, Announcer(), self.restarted.set, policy)

    async def ready(self) -> bool:
        return await valkey.ping(self.url)

    async def start(self) -> Part:
        await self.guard.start()
        part = await self.launcher.start(self.spec)
        await self.launcher.until_ready(part, self.ready, TIMEOUT_S)
        return part

    async def set(self, value: str) -> None:
        client = connect(self.url)
        await client.set("key", value)
        await client.aclose()

    async def get(self) -> bytes | str | None:
        client = connect(self.url)
        try:
            return await client.get("key")
        finally:
            await client.aclose()

    async def stop(self) -> None:
        await self.launcher.drain([lambda _: True])
        await self.guard.stop()


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataDir]:
    made = DataDir(tmp_path / f"a path with spaces {'x' * 150}" / "data")
    made.make()
    assert len(str(made.redis / "redis.sock")) > 170
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime_dirs:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dirs)
        yield made


async def test_it_keeps_what_was_written_over_kill_9(data_dir: DataDir) -> None:
    store = Store(data_dir)
    part = await store.start()
    await store.set("written")
    assert (data_dir.redis / "redis.sock").is_socket()

    keeping = asyncio.create_task(store.launcher.keep())
    first = part.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(store.restarted.wait(), TIMEOUT_S)
    await asyncio.wait_for(until(store.ready), TIMEOUT_S)
    assert await store.get() == b"written"
    assert part.pid not in (first, None)

    keeping.cancel()
    await store.stop()
    assert not await valkey.ping(store.url)


async def test_its_memory_has_a_bound_and_nothing_is_evicted(data_dir: DataDir) -> None:
    store = Store(data_dir, memory="64mb")
    await store.start()
    client = connect(store.url)
    bound = await client.config_get("maxmemory*")
    await client.aclose()
    await store.stop()
    assert bound["maxmemory"] == str(64 << 20)
    assert bound["maxmemory-policy"] == "noeviction"
    options = valkey.valkey_spec(data_dir, store.runtime).command
    default = int(options[options.index("--maxmemory") + 1])
    assert default == max(memory_bytes() // 4, 1 << 30)


async def test_a_live_server_is_adopted_kept_and_ended(data_dir: DataDir) -> None:
    first = Store(data_dir)
    part = await first.start()
    await first.set("of the first life")
    assert part.pid is not None
    pid = await valkey.find_server(data_dir, first.url)
    assert pid == part.pid

    launcher = Launcher(first.guard, Announcer(), first.restarted.set, RestartPolicy(first_s=0.05))
    adopted = launcher.adopt(first.spec, pid)
    await launcher.until_ready(adopted, first.ready, TIMEOUT_S)
    assert adopted.pid == pid
    keeping = asyncio.create_task(launcher.keep())
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(first.restarted.wait(), TIMEOUT_S)
    await asyncio.wait_for(until(first.ready), TIMEOUT_S)
    assert await first.get() == b"of the first life"
    assert not alive(pid)
    keeping.cancel()
    await launcher.drain([lambda _: True])
    assert not await valkey.ping(first.url)
    await first.guard.stop()


async def test_a_socket_of_another_directory_is_not_taken(
    data_dir: DataDir, tmp_path: Path
) -> None:
    store = Store(data_dir)
    await store.start()
    other = DataDir(tmp_path / "other")
    other.make()
    with pytest.raises(CommandError, match="serves"):
        await valkey.find_server(other, store.url)
    await store.stop()
    assert await valkey.find_server(data_dir, store.url) is None


async def test_a_child_that_cannot_start_shows_the_end_of_its_log(data_dir: DataDir) -> None:
    store = Store(data_dir)
    await store.guard.start()
    log = data_dir.log_of("broken")
    command = ("/bin/sh", "-c", "echo something is missing >&2; exit 3")
    part = await store.launcher.start(ProcessSpec("broken", command, log))
    with pytest.raises(CommandError, match=r"broken ended while it started \(exit status 3\)") as e:
        await store.launcher.until_ready(part, store.ready, TIMEOUT_S)
    assert "something is missing" in e.value.detail
    await store.stop()


async def test_a_child_that_takes_too_long_is_named(data_dir: DataDir) -> None:
    store = Store(data_dir)
    await store.guard.start()
    part = await store.launcher.start(
        ProcessSpec("slow", ("/bin/sleep", "60"), data_dir.log_of("slow"))
    )
    with pytest.raises(CommandError, match="slow was not ready after 0 s"):
        await store.launcher.until_ready(part, store.ready, 0.2)
    await store.stop()


async def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(data_dir: DataDir) -> None:
    store = Store(data_dir)
    await store.guard.start()
    command = ("/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done")
    log = data_dir.log_of("stubborn")
    part = await store.launcher.start(ProcessSpec("stubborn", command, log, grace_s=0.3))

    async def said_ready() -> bool:
        return log.read_text() == "ready\n"

    await store.launcher.until_ready(part, said_ready, TIMEOUT_S)
    pid = part.pid
    assert pid is not None
    await asyncio.wait_for(store.stop(), TIMEOUT_S)
    assert not alive(pid)

"""A registry_sync process, a real store behind a bad network, and a folder of models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from penstock.shared.process.lifecycle import environment_of_child
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.contract.redis_server import Server
from tests.e2e.system import free_port, own_environment
from tests.fault.proxy import Proxy, proxy

WAIT_S = 60.0
"""Longest wait for anything; on an idle machine, a second or ten."""

LATE_S = 1.0
"""By how much each way to the store and back is late at most: an answer takes up to 2 s."""


class Daemon:
    """One process, its store, and what it wrote there."""

    def __init__(self, folder: Path, port: int, store: RedisStateStore, network: Proxy) -> None:
        self.models = folder / "models"
        self.network = network
        self._store = store
        self._log = folder / "log"
        given = {
            "redis_url": f"redis://127.0.0.1:{port}",
            "models": self.models,
            "cache_dir": folder / "cache",
            "folder_settle_s": 0.1,
            "poll_interval_s": 0.3,
            "registry_timeout_s": 1.0,
        }
        variables = {f"PENSTOCK_{name.upper()}": str(value) for name, value in given.items()}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "penstock.deploy.local", "registry-sync"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment_of_child(), **own_environment(), **variables}
                | {"PENSTOCK_PARENT_PID": str(os.getpid()), "PENSTOCK_LOG_FORMAT": "json"},
                start_new_session=True,
            )

    def write(self, path: str) -> None:
        """A model's file."""
        file = self.models / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("weights")

    async def until_deployed(self, model: str, version: str) -> None:
        """Wait until the daemon wants a version, as far as it gets without a worker."""
        async with asyncio.timeout(WAIT_S):
            while True:
                assert self.process.poll() is None, self._log.read_text()
                revisions = (await self._store.deployment()).revisions.values()
                if any((each.model, each.version) == (model, version) for each in revisions):
                    return
                await asyncio.sleep(0.05)

    def told(self, event: str) -> list[dict[str, Any]]:
        """Lines of the log."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    def end(self) -> int:
        """Have it leave; returns its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    (tmp_path / "models").mkdir()
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        port = free_port()
        server = Server(Path(folder), port=str(port))
        server.start()
        store = RedisStateStore(server.url, Keys("penstock"))
        async with proxy(f"tcp://127.0.0.1:{port}", seed=1) as network:
            daemon = Daemon(tmp_path, network.port, store, network)
            try:
                daemon.write("m/1/model.onnx")
                await daemon.until_deployed("m", "1")
                yield daemon
            finally:
                daemon.process.kill()
                daemon.process.wait()
                await store.close()
                server.kill()


async def test_a_store_that_is_slow_for_a_while_leaves_nobody_deaf(daemon: Daemon) -> None:
    daemon.network.faults.jitter_s = LATE_S
    await asyncio.sleep(15.0)
    daemon.network.faults.jitter_s = 0.0
    daemon.write("m/2/model.onnx")
    await daemon.until_deployed("m", "2")
    assert daemon.end() == 0


async def test_a_network_that_stalls_or_breaks_leaves_nobody_deaf(daemon: Daemon) -> None:
    for version, stalled_s in (("2", 2.0), ("3", 5.0)):
        daemon.network.stall()
        await asyncio.sleep(stalled_s)
        daemon.network.flow()
        daemon.write(f"m/{version}/model.onnx")
        await daemon.until_deployed("m", version)
    daemon.network.reset()
    daemon.write("m/4/model.onnx")
    await daemon.until_deployed("m", "4")


async def test_a_file_name_that_is_not_utf_8_ends_no_daemon(daemon: Daemon) -> None:
    daemon.write("m/2/model.onnx")
    daemon.write(f"m/2/{os.fsdecode(bytes([0xE9]))}.txt")
    daemon.write("other/1/model.onnx")
    await daemon.until_deployed("other", "1")
    (reason,) = {line["reason"] for line in daemon.told("not followed") if "m/2" in line["path"]}
    assert "is no name in UTF-8" in reason


async def test_a_status_that_hangs_stops_neither_reading_nor_the_end(daemon: Daemon) -> None:
    """Who opens a pipe to write into it waits until somebody reads."""
    os.mkfifo(daemon.models / "m" / ".status.yaml.tmp")
    daemon.write("m/2/model.onnx")
    await daemon.until_deployed("m", "2")
    async with asyncio.timeout(WAIT_S):
        while not any(
            "timed out after 1 s" in line["error"] for line in daemon.told("unavailable")
        ):
            await asyncio.sleep(0.1)
    daemon.write("other/1/model.onnx")
    await daemon.until_deployed("other", "1")
    assert daemon.end() == 0

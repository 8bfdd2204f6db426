"""The whole system under load while parts of it die, and while MLflow or Redis are gone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.load import Load
from tests.e2e.system import LocalSystem
from tests.e2e.test_swap import load_of
from tests.support.waiting import wait_until

CLIENTS = 12
PAUSE_S = 0.05
REST_PAUSE_S = 0.25
"""While what was killed is long in coming back: MLflow takes many seconds."""

REST_AFTER_S = 2.0
PARTS = ["worker-0", "registry-sync-0", "gateway-0", "valkey", "mlflow"]
BROKEN_OFF = ("ServerDisconnectedError", "ClientOSError", "ClientConnectorError")
"""How a client tells that the gateway itself went away in the middle of a request."""


def revisions(system: LocalSystem) -> list[dict[str, Any]]:
    """Revisions of the model `digits`."""
    (model,) = [each for each in system.status()["models"] if each["model"] == "digits"]
    return list(model["revisions"])


def serving(system: LocalSystem) -> str:
    """The version of `digits` that answers."""
    (revision,) = [each for each in revisions(system) if each["role"] == "stable"]
    return str(revision["version"])


def replicas(system: LocalSystem) -> list[dict[str, Any]]:
    """Replicas of `digits` that are ready."""
    found = [replica for revision in revisions(system) for replica in revision["replicas"]]
    return [replica for replica in found if replica["state"] == "ready"]


def child(system: LocalSystem, name: str) -> int:
    """The pid of one of the processes that `penstock up` started."""
    return int(system.system_file()["processes"][name])


async def while_loaded(load: Load, fault: Callable[[], None], after_s: float = 2.0) -> None:
    """Run load, let a fault happen, and go on for a while."""
    running = asyncio.create_task(load.run(CLIENTS))
    await asyncio.sleep(1.0)
    await asyncio.to_thread(fault)
    await asyncio.sleep(after_s)
    load.stopped = True
    await running
    assert len(load.answers) > 100
    assert load.failures() == []


@dataclass
class Killed:
    """What came of one kill -9: failures under load, and the time until all was back."""

    part: str
    requests: int
    failures: list[str]
    recovery_s: float

    @property
    def innocent(self) -> list[str]:
        """Failures of requests whose own gateway lived: those were told a status."""
        return [failure for failure in self.failures if not failure.startswith(BROKEN_OFF)]


class Killing:
    """Kills one part after the other under load."""

    def __init__(self, system: LocalSystem, load: Load) -> None:
        self._system = system
        self._load = load
        self.table: list[Killed] = []

    def _two_ready(self, but: int) -> bool:
        try:
            pids = {replica["pid"] for replica in replicas(self._system)}
        except AssertionError:  # the store is not quite back
            return False
        return len(pids) == 2 and but not in pids

    async def kill(self, part: str, pid: int, back: Callable[[], bool]) -> None:
        """Kill a process under full load, and wait until it and both replicas are back."""
        before, failed = len(self._load.answers), len(self._load.failures())
        started = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(lambda: back() and self._two_ready(pid)):
                if time.monotonic() - started > REST_AFTER_S:
                    self._load.pause_s = REST_PAUSE_S
                await asyncio.sleep(0.2)
        recovery_s = time.monotonic() - started
        self._load.pause_s = PAUSE_S
        await asyncio.sleep(1.0)
        failures = self._load.failures()[failed:]
        self.table.append(Killed(part, len(self._load.answers) - before, failures, recovery_s))

    async def kill_child(self, name: str) -> None:
        """Kill one of the processes that `penstock up` started."""
        system, pid = self._system, child(self._system, name)

        def back() -> bool:
            answers = name != "mlflow" or system.mlflow_answers()
            return child(system, name) != pid and answers

        await self.kill(name, pid, back)


async def test_kill_9_of_each_part_under_load(
    demo_system: LocalSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(demo_system.mlflow_uri)
    client.set_registered_model_tag("digits", "penstock.replicas", "2")
    try:
        wait_until(lambda: len(replicas(demo_system)) == 2, 30, "two replicas are ready")
        load = load_of(demo_system, tmp_path, PAUSE_S)
        running = asyncio.create_task(load.run(CLIENTS))
        await asyncio.sleep(1.0)
        killing = Killing(demo_system, load)
        await killing.kill("replica", min(r["pid"] for r in replicas(demo_system)), lambda: True)
        for name in PARTS:
            await killing.kill_child(name)
        load.stopped = True
        await running
        workers = {replica["worker"] for replica in replicas(demo_system)}
    finally:
        client.delete_registered_model_tag("digits", "penstock.replicas")
    with capsys.disabled():
        print("\nkill -9 of        requests  failed  back after")
        for row in killing.table:
            failed = len(row.failures)
            print(f"{row.part:16}  {row.requests:8}  {failed:6}  {row.recovery_s:6.1f} s")
    for row in killing.table:
        assert row.innocent == [], row.part
        assert row.part == "gateway-0" or row.failures == [], row.part
    assert len(workers) == 2, "the replicas are spread over both workers"


def register_broken_version(system: LocalSystem, folder: Path) -> str:
    """A version of `digits` whose graph is garbage."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"this is no graph")
    (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
    mlflow.set_tracking_uri(system.mlflow_uri)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), "model")
    client = MlflowClient(system.mlflow_uri)
    source = f"{run.info.artifact_uri}/model"
    return str(client.create_model_version("digits", source, run.info.run_id).version)


async def test_a_version_that_cannot_be_loaded_changes_nothing_for_traffic(
    demo_system: LocalSystem, tmp_path: Path
) -> None:
    client = MlflowClient(demo_system.mlflow_uri)
    before = serving(demo_system)
    version = register_broken_version(demo_system, tmp_path / "broken")

    def status() -> dict[str, str]:
        return dict(client.get_model_version("digits", version).tags)

    def tag_and_wait() -> None:
        client.set_model_version_tag("digits", version, "penstock.role", "stable")
        wait_until(lambda: status().get("penstock.status") == "failed", 40, "it is failed")

    try:
        load = load_of(demo_system, tmp_path, 2 * PAUSE_S)
        await while_loaded(load, tag_and_wait)
        assert load.versions() == {before}
        assert "cannot load model.onnx" in status()["penstock.status_message"]
    finally:
        client.delete_model_version("digits", version)


def test_an_empty_system_starts_and_ends_quickly(tmp_path: Path) -> None:
    system = LocalSystem(tmp_path / "data", "--mlflow-uri", "http://127.0.0.1:9")
    system.start()
    assert system.get("/v2/health/live")[0] == 200
    assert system.get("/v2/health/ready")[0] == 400
    assert system.get("/v2/models/digits")[0] == 404
    started = time.monotonic()
    assert system.stop() == 0
    assert time.monotonic() - started < 20, "it waited for something"

"""The whole system under load while parts of it die, and while MLflow or Redis are gone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.load import Load
from tests.e2e.system import LocalSystem, alive, wait_until
from tests.e2e.test_swap import load_of

CLIENTS = 16


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


async def test_kill_9_of_one_of_two_replicas(demo_system: LocalSystem, tmp_path: Path) -> None:
    client = MlflowClient(demo_system.mlflow_uri)
    client.set_registered_model_tag("digits", "penstock.replicas", "2")
    try:
        wait_until(lambda: len(replicas(demo_system)) == 2, 30, "two replicas are ready")
        pids = {replica["pid"] for replica in replicas(demo_system)}
        killed = min(pids)

        def back() -> bool:
            now = {replica["pid"] for replica in replicas(demo_system)}
            return len(now) == 2 and killed not in now

        load = load_of(demo_system, tmp_path)
        await while_loaded(load, lambda: os.kill(killed, signal.SIGKILL))
        wait_until(back, 30, "the killed replica is back")
    finally:
        client.delete_registered_model_tag("digits", "penstock.replicas")


def child(system: LocalSystem, name: str) -> int:
    """The pid of one of the processes that `penstock up` started."""
    return int(system.system_file()["processes"][name])


@pytest.mark.parametrize("name", ["valkey", "registry-sync-0", "mlflow"])
async def test_kill_9_of_what_is_not_on_the_way_of_a_request(
    demo_system: LocalSystem, tmp_path: Path, name: str
) -> None:
    load = load_of(demo_system, tmp_path)
    pid = child(demo_system, name)
    await while_loaded(load, lambda: os.kill(pid, signal.SIGKILL))
    wait_until(lambda: not alive(pid), 10, f"{name} is gone")
    wait_until(lambda: child(demo_system, name) != pid, 30, f"{name} is back")
    wait_until(lambda: bool(replicas(demo_system)), 30, "the status is told again")
    wait_until(demo_system.mlflow_answers, 60, "MLflow answers")


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
        load = load_of(demo_system, tmp_path)
        await while_loaded(load, tag_and_wait)
        assert load.versions() == {before}
        assert "cannot load model.onnx" in status()["penstock.status_message"]
    finally:
        client.set_model_version_tag("digits", version, "penstock.role", "off")


def test_with_mlflow_down_everything_else_starts_and_serves(tmp_path: Path) -> None:
    first = LocalSystem(tmp_path / "data", "--demo")
    first.start()
    assert first.stop() == 0
    again = LocalSystem(tmp_path / "data", "--mlflow-uri", "http://127.0.0.1:9")
    try:
        again.start()
        ready = lambda: again.get("/v2/models/digits/ready")[0] == 200  # noqa: E731
        wait_until(ready, 30, "digits is served without MLflow")
    finally:
        assert again.stop() == 0


def test_an_empty_system_starts_and_ends_quickly(tmp_path: Path) -> None:
    system = LocalSystem(tmp_path / "data", "--mlflow-uri", "http://127.0.0.1:9")
    system.start()
    assert system.get("/v2/health/live")[0] == 200
    assert system.get("/v2/health/ready")[0] == 400
    assert system.get("/v2/models/digits")[0] == 404
    started = time.monotonic()
    assert system.stop() == 0
    assert time.monotonic() - started < 20, "it waited for something"

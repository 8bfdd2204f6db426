"""MLflow's own server as a registry: what is read, what is written, and the whole daemon on it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from registry_sync.controller import Controller
from registry_sync.mlflow_source import MlflowSource, configure_client
from registry_sync.registry import RegistryError, Status, StatusUpdate
from registry_sync.settings import SyncSettings
from shared.artifact_cache import ArtifactCache
from shared.clock import SystemClock
from shared.state_store import MemoryStateStore

ALIASES = ("production", "champion")


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own, killed with all its processes; it takes some ten seconds to start."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, **quiet},
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    try:
        _wait_for(f"{url}/health", server)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "the MLflow server ended"
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise AssertionError("the MLflow server does not answer")


@pytest.fixture
def client(mlflow_uri: str) -> Any:
    configure_client(5.0)
    return MlflowClient(tracking_uri=mlflow_uri, registry_uri=mlflow_uri)


@pytest.fixture
def source(mlflow_uri: str) -> MlflowSource:
    return MlflowSource(mlflow_uri, ALIASES)


def register(client: Any, model: str, versions: int = 1) -> None:
    """A registered model with versions that have no artifacts."""
    client.create_registered_model(model)
    run_id = client.create_run(experiment_id="0").info.run_id
    for number in range(versions):
        client.create_model_version(model, source=f"runs:/{run_id}/{number}", run_id=run_id)


def test_what_is_named_is_observed(client: Any, source: MlflowSource) -> None:
    register(client, "named", versions=4)
    client.set_registered_model_tag("named", "penstock.replicas", "2")
    client.set_model_version_tag("named", "1", "penstock.role", "stable")
    client.set_registered_model_alias("named", "champion", "2")
    client.set_registered_model_alias("named", "someone-elses", "3")
    model = source.observe([])["named"]
    assert model.tags == {"penstock.replicas": "2"}
    assert model.aliases == {"champion": "2", "someone-elses": "3"}
    assert [seen.version for seen in model.versions] == ["1", "2"]
    assert model.versions[0].tags == {"penstock.role": "stable"}
    assert model.versions[0].source.uri == "models:/named/1"
    known = source.observe([("named", "4"), ("named", "9"), ("gone", "1")])["named"]
    assert [seen.version for seen in known.versions] == ["1", "2", "4"]


def test_tag_edits_are_seen_though_no_time_stamp_moves(client: Any, source: MlflowSource) -> None:
    register(client, "edited")
    client.set_model_version_tag("edited", "1", "penstock.role", "stable")
    before = source.observe([])["edited"]
    client.set_model_version_tag("edited", "1", "penstock.role", "off")
    after = source.observe([])["edited"]
    assert before.versions[0].tags != after.versions[0].tags
    client.delete_model_version_tag("edited", "1", "penstock.role")
    assert source.observe([])["edited"].versions == ()


def test_statuses_are_written_and_then_observed(client: Any, source: MlflowSource) -> None:
    register(client, "told")
    update = StatusUpdate("told", "1", Status.SERVING, "1 of 2 replicas ready")
    source.write_status(update)
    (seen,) = source.observe([])["told"].versions
    assert seen.tags == {
        "penstock.status": "serving",
        "penstock.status_message": "1 of 2 replicas ready",
    }
    source.write_status(StatusUpdate("told", "1", Status.RETIRED))
    assert source.observe([])["told"].versions == ()


def test_a_recreated_version_has_another_identity(client: Any, source: MlflowSource) -> None:
    register(client, "again")
    before = source.observe([("again", "1")])["again"].versions[0].source
    client.delete_registered_model("again")
    assert "again" not in source.observe([("again", "1")])
    register(client, "again")
    after = source.observe([("again", "1")])["again"].versions[0].source
    assert before.uri == after.uri
    assert before.identity != after.identity


def test_errors_are_ours_and_soon(client: Any, source: MlflowSource) -> None:
    with pytest.raises(RegistryError, match="not found"):
        source.write_status(StatusUpdate("nowhere", "1", Status.FAILED))
    started = time.monotonic()
    with pytest.raises(RegistryError):
        MlflowSource("http://127.0.0.1:9", ALIASES).observe([])
    assert time.monotonic() - started < 10


def log_version(client: Any, folder: Path, model: str, content: str) -> None:
    """A version with artifacts, as MLflow keeps them."""
    folder.mkdir()
    (folder / "MLmodel").write_text(content)
    run = client.create_run(experiment_id="0")
    client.log_artifacts(run.info.run_id, str(folder), "model")
    source = f"runs:/{run.info.run_id}/model"
    client.create_model_version(model, source=source, run_id=run.info.run_id)


async def test_the_daemon_follows_a_real_registry(
    client: Any, source: MlflowSource, tmp_path: Path
) -> None:
    """Up to placement, for there is no worker: fetched, hashed, and told to the operator."""
    client.create_registered_model("real")
    await asyncio.to_thread(log_version, client, tmp_path / "1", "real", "flavors: {}\n")
    client.set_model_version_tag("real", "1", "penstock.role", "stable")
    cache = ArtifactCache(tmp_path / "cache", 2**30, 60.0)
    store = MemoryStateStore(SystemClock())
    settings = SyncSettings(poll_interval_s=0.2, state_poll_s=0.2)
    controller = Controller(settings, store, source, cache, SystemClock(), "a")
    running = asyncio.create_task(controller.run())
    try:
        async with asyncio.timeout(60):
            while not (await store.deployment()).revisions:
                await asyncio.sleep(0.05)
            (revision,) = (await store.deployment()).revisions.values()
            assert [file.path for file in revision.manifest.files] == ["MLmodel"]
            folder = await cache.get(revision.manifest, revision.source)
            assert (folder / "MLmodel").read_text() == "flavors: {}\n"
            expected = {
                "penstock.role": "stable",
                "penstock.status": "loading",
                "penstock.status_message": "no worker is there",
            }
            while client.get_model_version("real", "1").tags != expected:
                await asyncio.sleep(0.05)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

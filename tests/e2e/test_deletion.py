"""Versions and models that are deleted from a real MLflow while they serve."""

from __future__ import annotations

import asyncio
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from redis import Redis

from penstock.shared.store.keys import Keys
from tests.contract.registries import mlflow_server
from tests.e2e.folder import QUICK, SWAP_TIMEOUT_S, Multiplying, answers_with
from tests.e2e.system import LocalSystem, penstock
from tests.support.models import affine
from tests.support.waiting import wait_until

CLIENTS = 2

pytestmark = pytest.mark.timeout(400)


@dataclass
class Registry:
    """An MLflow of our own, and what an operator does in it."""

    uri: str
    folder: Path

    @property
    def client(self) -> Any:
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def put(self, model: str, scale: float) -> None:
        """Register a version that multiplies, and name it stable."""
        files = self.folder / "to log"
        affine(files, scale)
        (files / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n")
        client = self.client
        run_id = client.create_run(experiment_id="0").info.run_id
        client.log_artifacts(run_id, str(files), "model")
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model)
        source = f"runs:/{run_id}/model"
        version = client.create_model_version(model, source=source, run_id=run_id).version
        client.set_model_version_tag(model, version, "penstock.role", "stable")


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "mlflow"
    folder.mkdir()
    with mlflow_server(folder) as uri:
        yield Registry(uri, folder)


@pytest.fixture
def system(tmp_path: Path, mlflow: Registry) -> Iterator[LocalSystem]:
    mlflow.put("single", 2.0)
    mlflow.put("whole", 3.0)
    system = LocalSystem(tmp_path / "data", "--mlflow-uri", mlflow.uri)
    system.environment = dict(QUICK)
    system.start()
    yield system
    assert system.stop() == 0, system.output


def gone(system: LocalSystem) -> dict[str, str]:
    """What is told of versions that serve and are gone, by model."""
    return {
        model["model"]: each["message"]
        for model in system.status()["models"]
        for each in model["versions"]
        if each["gone"] and each["status"] == "serving"
    }


def metrics(system: LocalSystem) -> str:
    """The sum of all processes' metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{system.metrics_port}/metrics") as page:
        text: str = page.read().decode()
        return text


def turned_off(system: LocalSystem) -> set[bytes]:
    """What the store keeps as turned off."""
    found = system.system_file()
    with Redis.from_url(found["redis_url"]) as redis:
        return set(redis.smembers(Keys(found["namespace"]).turned_off))


async def under_load(system: LocalSystem, change: Callable[[], None]) -> None:
    """Make a change, while both models are called all the time; none of the calls may fail."""
    loads = [Multiplying(system.url, "single", {2.0}), Multiplying(system.url, "whole", {3.0})]
    running = [asyncio.create_task(each.run(CLIENTS)) for each in loads]
    await asyncio.sleep(0.5)
    await asyncio.to_thread(change)
    await asyncio.sleep(3.0)  # gone before: within 2 s
    for load, task in zip(loads, running, strict=True):
        load.stopped = True
        await task
        assert load.failures == []
        assert sum(load.answered.values()) > 100


async def test_what_is_deleted_serves_on_over_restarts_until_it_is_off(
    system: LocalSystem, mlflow: Registry
) -> None:
    answers_with(system, "single", 2.0, SWAP_TIMEOUT_S)
    answers_with(system, "whole", 3.0, SWAP_TIMEOUT_S)

    def delete() -> None:
        mlflow.client.delete_model_version("single", "1")
        mlflow.client.delete_registered_model("whole")
        shutil.rmtree(mlflow.folder / "artifacts")
        wait_until(
            lambda: len(gone(system)) == 2, SWAP_TIMEOUT_S, "both are reported gone", every_s=0.2
        )

    await under_load(system, delete)
    assert gone(system)["single"].startswith("the registry has this version no more")
    assert gone(system)["whole"].startswith("the registry has this model no more")
    assert "penstock_sync_gone_versions 2.0" in metrics(system)
    table = penstock("status", "--data-dir", str(system.data_dir)).stdout
    assert table.count("serving, gone") == 2

    assert system.stop() == 0  # gateway, worker and registry-sync; the store is kept
    system.start()
    answers_with(system, "single", 2.0, SWAP_TIMEOUT_S)
    answers_with(system, "whole", 3.0, SWAP_TIMEOUT_S)
    wait_until(
        lambda: len(gone(system)) == 2, SWAP_TIMEOUT_S, "both are reported gone again", every_s=0.2
    )

    mlflow.client.delete_registered_model("single")  # the last one
    words = "the registry lists no models"
    wait_until(lambda: gone(system)["single"].startswith(words), SWAP_TIMEOUT_S, words, 0.2)

    arguments = ["off", "whole", "--data-dir", str(system.data_dir)]
    refused = penstock(*arguments)
    assert refused.returncode == 2
    assert "version 1: serving, 1 replica ready, the registry has it no more" in refused.stdout
    assert gone(system).keys() == {"single", "whole"}
    assert penstock(*arguments, "--yes").returncode == 0
    ended = penstock("wait", "whole", "--for", "retired", "--data-dir", str(system.data_dir))
    assert ended.returncode == 0, ended.stdout
    wait_until(
        lambda: system.get("/v2/models/whole")[0] == 404, SWAP_TIMEOUT_S, "whole is not routed"
    )
    answers_with(system, "single", 2.0, SWAP_TIMEOUT_S)

    assert turned_off(system) == {b"whole/1"}  # an empty registry may have lost it
    mlflow.put("single", 5.0)  # version 1 again, with other content
    answers_with(system, "single", 5.0, SWAP_TIMEOUT_S)
    wait_until(lambda: turned_off(system) == set(), SWAP_TIMEOUT_S, "it is forgotten")
    assert gone(system) == {}

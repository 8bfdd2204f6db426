"""Two systems, each with a store of its own, on one registry: with tags of their own, and not.

The daemons are processes; no worker is there, so that a version that is wished for is `loading`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.shared.process.lifecycle import environment_of_child
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.contract.redis_server import Server
from tests.contract.registries import mlflow_server
from tests.e2e.system import free_port, own_environment, penstock
from tests.e2e.test_deletion import Registry
from tests.support.models import affine
from tests.support.waiting import wait_until

WAIT_S = 90.0
CONTEST = "another system writes them too"

pytestmark = pytest.mark.timeout(400)


@dataclass
class System:
    """A daemon, its store, and what it wrote into its log."""

    server: Server
    log: Path
    metrics_port: int

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Lines of the log."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    def said(self) -> list[str]:
        """What it says of another system that writes the same tags."""
        told = [line for line in self.lines("unavailable") if line["what"] == "tags of this system"]
        return [line["error"] for line in told]

    def metric(self, name: str) -> float:
        """A metric of the daemon."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url) as page:
            lines = page.read().decode().splitlines()
        return float(next(each for each in lines if each.startswith(f"{name} ")).split()[1])

    def until_looked_again(self, times: int = 5) -> None:
        """Wait until it has looked at the registry so many times more."""
        enough = self.metric("penstock_sync_polls_total") + times
        wait_until(
            lambda: self.metric("penstock_sync_polls_total") >= enough,
            WAIT_S,
            "it looks again",
            0.1,
        )

    def troubles(self) -> str:
        """What it reports as wrong."""
        return "\n".join(asyncio.run(self._troubles()))

    async def _troubles(self) -> tuple[str, ...]:
        store = RedisStateStore(self.server.url, Keys("penstock"))
        try:
            return tuple(trouble for sync in await store.syncs() for trouble in sync.troubles)
        finally:
            await store.close()


@contextmanager
def system_on(registry: Registry | Path, folder: Path, *arguments: str) -> Iterator[System]:
    """A daemon that follows an MLflow or a folder, on a store of its own."""
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="pst-") as short:
        server = Server(Path(short))
        server.start()
        log, port = folder / "log", free_port()
        options = {
            "--redis-url": server.url,
            **(
                {"--models": str(registry)}
                if isinstance(registry, Path)
                else {"--mlflow-uri": registry.uri}
            ),
            "--cache-dir": str(folder / "cache"),
            "--poll-interval-s": "0.3",
            "--metrics-port": str(port),
        }
        flags = [part for option in options.items() for part in option]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "penstock.deploy.local",
                    "registry-sync",
                    *flags,
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**environment_of_child(), **own_environment()}
                | {"PENSTOCK_PARENT_PID": str(os.getpid())},
                start_new_session=True,
            )
        try:
            yield System(server, log, port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()
            server.kill()


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(folder) as uri:
        yield Registry(uri, folder)


def tags_of(mlflow: Registry, model: str, version: str = "1") -> dict[str, str]:
    return dict(mlflow.client.get_model_version(model, version).tags)


def until_told(mlflow: Registry, model: str, version: str, prefix: str, words: str) -> None:
    """Wait until a version's status message has some words in it."""
    tag = f"{prefix}.status_message"
    wait_until(
        lambda: words in tags_of(mlflow, model, version).get(tag, ""),
        WAIT_S,
        f"{tag}: {words}",
        0.2,
    )


def test_prefixes_keep_systems_apart_and_one_prefix_is_told(
    mlflow: Registry, tmp_path: Path
) -> None:
    mlflow.put("apart", 2.0)  # penstock.role is stable
    mlflow.put("apart", 3.0)
    client = mlflow.client
    client.delete_model_version_tag("apart", "2", "penstock.role")
    client.set_model_version_tag("apart", "2", "staging.role", "stable")
    client.set_registered_model_tag("apart", "penstock.replicas", "many")
    client.set_registered_model_tag("apart", "staging.max_batch_size", "none")
    with (
        system_on(mlflow, tmp_path / "production") as production,
        system_on(mlflow, tmp_path / "staging", "--tag-prefix", "staging") as staging,
    ):
        for tag, version in (("penstock", "1"), ("staging", "2")):
            until_told(mlflow, "apart", version, tag, "no worker is there")
        for system in (production, staging):
            system.until_looked_again()
        mine, theirs = (tags_of(mlflow, "apart", version) for version in "12")
        assert {tag.partition(".")[0] for tag in mine} == {"penstock"}
        assert {tag.partition(".")[0] for tag in theirs} == {"staging"}
        owners = [mine["penstock.owner"], theirs["staging.owner"]]
        assert len({owner.partition(" ")[0] for owner in owners}) == 2
        assert "penstock.replicas is 'many'" in mine["penstock.status_message"]
        assert "max_batch_size" not in mine["penstock.status_message"]
        assert "staging.max_batch_size is 'none'" in theirs["staging.status_message"]
        assert "replicas is" not in theirs["staging.status_message"]
        for system in (production, staging):
            assert system.said() == []
            assert system.metric("penstock_sync_contested_versions") == 0
        with system_on(mlflow, tmp_path / "intruder", "--tag-prefix", "staging") as intruder:
            until_said(intruder)
            until_said(staging)
            production.until_looked_again()
            assert production.said() == []
        told = penstock("status", "--redis-url", staging.server.url).stdout
        assert CONTEST in told
    client.delete_registered_model("apart")


def until_said(system: System) -> None:
    """Wait until a system says that there is another, wherever one may look."""
    contested = "penstock_sync_contested_versions"
    wait_until(lambda: bool(system.said()), WAIT_S, "it is said")
    assert CONTEST in system.said()[0]
    assert "--tag-prefix" in system.said()[0]
    wait_until(lambda: system.metric(contested) == 1, WAIT_S, "it is counted", 0.2)
    wait_until(lambda: CONTEST in system.troubles(), WAIT_S, "it is reported", 0.2)


def test_a_filter_parts_the_models_of_two_systems(mlflow: Registry, tmp_path: Path) -> None:
    mlflow.put("red-1", 2.0)
    mlflow.put("blue-1", 3.0)
    with (
        system_on(mlflow, tmp_path / "red", "--include", '["red-*"]') as red,
        system_on(mlflow, tmp_path / "blue", "--exclude", '["red-*"]') as blue,
    ):
        for model in ("red-1", "blue-1"):
            until_told(mlflow, model, "1", "penstock", "no worker is there")
        for system, model in ((red, "red-1"), (blue, "blue-1")):
            statuses = {line["model"] for line in system.lines("status")}
            assert statuses == {model}
            assert system.said() == []


def test_in_a_folder_prefixes_keep_systems_apart_and_one_prefix_is_told(tmp_path: Path) -> None:
    models = tmp_path / "models"
    model = models / "m"
    for version in "12":
        affine(model / version, float(version))
    (model / "1" / "tags.yaml").write_text("penstock.role: stable\nstaging.role: 'off'\n")
    (model / "2" / "tags.yaml").write_text("penstock.role: 'off'\nstaging.role: stable\n")
    ours, theirs = model / "status.yaml", model / "status.staging.yaml"
    with (
        system_on(models, tmp_path / "production") as production,
        system_on(models, tmp_path / "staging", "--tag-prefix", "staging") as staging,
    ):
        wait_until(lambda: told_in(ours) == {1: "loading"}, WAIT_S, "production tells")
        wait_until(lambda: told_in(theirs) == {2: "loading"}, WAIT_S, "staging tells")
        for system in (production, staging):
            system.until_looked_again()
            assert system.said() == []
            assert system.lines("not followed") == []
        with system_on(models, tmp_path / "intruder", "--tag-prefix", "staging") as intruder:
            until_said(intruder)
            until_said(staging)
            production.until_looked_again()
            assert production.said() == []


def told_in(file: Path) -> dict[int, str]:
    """Statuses in a folder, by version."""
    rows = yaml.safe_load(file.read_text()) if file.exists() else {}
    return {version: row["status"] for version, row in rows.items()}

"""The registries that the contract suite runs over, each with the means of an operator."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from penstock.registry_sync.plan.model_filter import EVERY_MODEL, ModelFilter
from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.sources.folder_source import FolderSource
from penstock.registry_sync.sources.mlflow_source import MlflowSource, configure_client
from penstock.registry_sync.sources.types import RegistrySource
from penstock.shared.process.clock import SystemClock
from tests.support.mlflow_database import empty_database

ALIASES = ("production", "champion")


class OperatedRegistry(Protocol):
    """What operators do, whatever the registry."""

    @property
    def source(self) -> RegistrySource:
        """What is to be tested."""
        ...

    def unreachable(self) -> RegistrySource:
        """A source whose registry is away."""
        ...

    def another(
        self, names: TagNames = DEFAULT_NAMES, admitted: ModelFilter = EVERY_MODEL
    ) -> RegistrySource:
        """Another system's source of the same registry."""
        ...

    def register(self, model: str, versions: int = 1) -> None:
        """A model with versions 1, 2, 3 and so on."""
        ...

    def add_version(self, model: str, content: str) -> None:
        """The next version, with a file `MLmodel`."""
        ...

    def delete_model(self, model: str) -> None: ...

    def tag_model(self, model: str, tag: str, value: str) -> None: ...

    def tag_version(self, model: str, version: str, tag: str, value: str) -> None: ...

    def untag_version(self, model: str, version: str, tag: str) -> None: ...

    def set_alias(self, model: str, alias: str, version: str) -> None: ...

    def tags_of(self, model: str, version: str) -> Mapping[str, str]:
        """What the operator reads on a version."""
        ...


class MlflowRegistry:
    """MLflow's own server.

    Args:
        folder: for artifacts, before they are logged.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        configure_client(5.0)
        self.client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self.source = MlflowSource(uri, ALIASES)
        self._folder, self._uri = folder, uri
        with suppress(MlflowException):  # it exists since the test before
            self.client.create_registered_model("other")

    def unreachable(self) -> RegistrySource:
        return MlflowSource("http://127.0.0.1:9", ALIASES)

    def another(
        self, names: TagNames = DEFAULT_NAMES, admitted: ModelFilter = EVERY_MODEL
    ) -> RegistrySource:
        return MlflowSource(self._uri, ALIASES, names, admitted)

    def register(self, model: str, versions: int = 1) -> None:
        self.client.create_registered_model(model)
        run_id = self.client.create_run(experiment_id="0").info.run_id
        for number in range(versions):
            self.client.create_model_version(
                model, source=f"runs:/{run_id}/{number}", run_id=run_id
            )

    def add_version(self, model: str, content: str) -> None:
        with suppress(Exception):
            self.client.create_registered_model(model)
        self._folder.mkdir(exist_ok=True)
        (self._folder / "MLmodel").write_text(content)
        run_id = self.client.create_run(experiment_id="0").info.run_id
        self.client.log_artifacts(run_id, str(self._folder), "model")
        self.client.create_model_version(model, source=f"runs:/{run_id}/model", run_id=run_id)

    def delete_model(self, model: str) -> None:
        self.client.delete_registered_model(model)

    def tag_model(self, model: str, tag: str, value: str) -> None:
        self.client.set_registered_model_tag(model, tag, value)

    def tag_version(self, model: str, version: str, tag: str, value: str) -> None:
        self.client.set_model_version_tag(model, version, tag, value)

    def untag_version(self, model: str, version: str, tag: str) -> None:
        self.client.delete_model_version_tag(model, version, tag)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(model, alias, version)

    def tags_of(self, model: str, version: str) -> Mapping[str, str]:
        tags: Mapping[str, str] = self.client.get_model_version(model, version).tags
        return tags


class FolderRegistry:
    """A folder of models, where nothing is stable unless it is named so, as in MLflow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "other" / "1").mkdir(parents=True)
        self.source = self._source(folder)

    def _source(
        self,
        folder: Path,
        names: TagNames = DEFAULT_NAMES,
        admitted: ModelFilter = EVERY_MODEL,
    ) -> RegistrySource:
        clock = SystemClock()
        return FolderSource(
            folder,
            ALIASES,
            clock,
            default_role="none",
            settle_s=0.0,
            names=names,
            admitted=admitted,
        )

    def another(
        self, names: TagNames = DEFAULT_NAMES, admitted: ModelFilter = EVERY_MODEL
    ) -> RegistrySource:
        return self._source(self.folder, names, admitted)

    def unreachable(self) -> RegistrySource:
        return self._source(self.folder / "not mounted")

    def register(self, model: str, versions: int = 1) -> None:
        for _ in range(versions):
            self.add_version(model, "flavors: {}\n")

    def add_version(self, model: str, content: str) -> None:
        (self.folder / model).mkdir(exist_ok=True)
        number = sum(path.is_dir() for path in (self.folder / model).iterdir()) + 1
        (self.folder / model / str(number)).mkdir()
        (self.folder / model / str(number) / "MLmodel").write_text(content)

    def delete_model(self, model: str) -> None:
        shutil.rmtree(self.folder / model)

    def tag_model(self, model: str, tag: str, value: str) -> None:
        self._edit(self.folder / model, {tag: value})

    def tag_version(self, model: str, version: str, tag: str, value: str) -> None:
        self._edit(self.folder / model / version, {tag: value})

    def untag_version(self, model: str, version: str, tag: str) -> None:
        self._edit(self.folder / model / version, {tag: None})

    def set_alias(self, model: str, alias: str, version: str) -> None:
        aliases = self._tags(self.folder / model).get("aliases", {})
        self._edit(self.folder / model, {"aliases": {**aliases, alias: int(version)}})

    def tags_of(self, model: str, version: str) -> Mapping[str, str]:
        own = self._tags(self.folder / model / version)
        try:
            statuses = yaml.safe_load((self.folder / model / "status.yaml").read_text())
        except FileNotFoundError:
            return own
        row = statuses.get(int(version), {})
        return {
            **own,
            "penstock.status": row.get("status", ""),
            "penstock.status_message": row.get("message", ""),
            **({"penstock.owner": row["owner"]} if "owner" in row else {}),
        }

    def _tags(self, folder: Path) -> dict[str, Any]:
        path = folder / "tags.yaml"
        return yaml.safe_load(path.read_text()) or {} if path.exists() else {}

    def _edit(self, folder: Path, change: Mapping[str, Any]) -> None:
        tags = {**self._tags(folder), **change}
        kept = {tag: value for tag, value in tags.items() if value is not None}
        (folder / "tags.yaml").write_text(yaml.safe_dump(kept))


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """A server of our own, killed with all its processes; it takes some ten seconds to start."""
    empty_database(folder / "mlflow.db")
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


@contextmanager
def something_else(body: bytes) -> Iterator[str]:
    """A server that answers anything with 200 and the same body; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "the MLflow server ended"
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.1)
    raise AssertionError("the MLflow server does not answer")

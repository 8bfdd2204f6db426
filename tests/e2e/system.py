"""A harness: a real `penstock up` in a directory of its own, on free ports."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.status.status import read_status
from penstock.deploy.local.system.system_file import read_system
from penstock.shared.contracts.errors import StateStoreError
from tests.support.waiting import wait_until

START_TIMEOUT_S = 240.0
"""MLflow's first start takes 17 s on an idle machine; tests may share theirs with a build."""

STOP_TIMEOUT_S = 60.0
RUNNING = "Penstock is running."

PENSTOCK = [sys.executable, "-P", "-m", "penstock.deploy.local"]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def penstock(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a `penstock` command to its end."""
    return subprocess.run(
        [*PENSTOCK, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=own_environment(),
    )


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def descendants(pid: int) -> set[int]:
    """All processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parent = int(stat.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    pending = [pid]
    while pending:
        for child in children.get(pending.pop(), []):
            found.add(child)
            pending.append(child)
    return found


class LocalSystem:
    """One data directory, and the `penstock up` that runs on it."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.mlflow_port = free_port()
        self.metrics_port = free_port()
        self.environment: dict[str, str] = {}
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._output = data_dir.parent / f"{data_dir.name[:40]}.up.log"

    @property
    def url(self) -> str:
        """Of the gateways."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mlflow_uri(self) -> str:
        """Of the system's own MLflow."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def pid(self) -> int:
        """Of `penstock up`."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether `penstock up` has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> str:
        """What this and earlier lives of `penstock up` printed."""
        return self._output.read_text(errors="replace")

    def command(self) -> list[str]:
        """The command line of `penstock up`."""
        ports = ["--port", str(self.port), "--mlflow-port", str(self.mlflow_port)]
        metrics = ["--metrics-port", str(self.metrics_port)]
        data_dir = ["--data-dir", str(self.data_dir)]
        return [*PENSTOCK, "up", *data_dir, *ports, *metrics, *self._arguments]

    def start(self) -> None:
        """Start, and wait until it says that it runs."""
        already = self._runs_said()
        process = self.launch()
        wait_until(lambda: self._settled(already), START_TIMEOUT_S, "penstock up runs")
        assert process.poll() is None, f"penstock up ended:\n{self.output}"

    def launch(self) -> subprocess.Popen[bytes]:
        """Start, and wait for nothing."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdout=output,
                stderr=output,
                env=own_environment() | self.environment,
            )
        return self._process

    def send(self, signum: int) -> subprocess.Popen[bytes]:
        """Send it a signal, and wait for nothing."""
        assert self._process is not None, "not started"
        self._process.send_signal(signum)
        return self._process

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it gently; returns its exit code."""
        assert self._process is not None, "not started"
        if self._process.poll() is None:
            self._process.send_signal(signum)
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its guardian ends the rest
            raise AssertionError(f"penstock up did not end:\n{self.output}") from None

    def kill(self) -> None:
        """kill -9 of `penstock up` alone."""
        assert self._process is not None, "not started"
        self._process.kill()
        self._process.wait()

    def system_file(self) -> dict[str, Any]:
        """What `penstock up` wrote for other commands: pids and URLs."""
        document: dict[str, Any] = json.loads((self.data_dir / "system.json").read_bytes())
        return document

    def processes(self) -> set[int]:
        """Everything below `penstock up`."""
        return descendants(self.pid)

    def status(self) -> dict[str, Any]:
        """What `penstock status --json` tells, without the second that a command takes to start.

        Raises:
            AssertionError: if it would tell that nothing runs, or that the store is away.
        """
        with ThreadPoolExecutor(1) as beside:  # where no event loop runs
            return beside.submit(asyncio.run, self._status()).result()

    async def _status(self) -> dict[str, Any]:
        try:
            system = read_system(self.data_dir)
            return (await read_status(system.redis_url, system.namespace)).model_dump(mode="json")
        except (CommandError, StateStoreError, ValueError) as error:
            raise AssertionError(str(error)) from error

    def get(self, path: str, timeout_s: float = 10.0) -> tuple[int, str]:
        """GET a path of the gateways: status code and body."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=timeout_s) as response:
                return int(response.status), response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def mlflow_answers(self) -> bool:
        """Whether the system's own MLflow is up."""
        try:
            with urllib.request.urlopen(f"{self.mlflow_uri}/health", timeout=5.0) as response:
                return int(response.status) == 200
        except OSError:
            return False

    def tag_version(self, model: str, version: str, key: str, value: str) -> None:
        """Set a tag of a model version through MLflow's REST API, as an operator would."""
        body = {"name": model, "version": version, "key": key, "value": value}
        request = urllib.request.Request(
            f"{self.mlflow_uri}/api/2.0/mlflow/model-versions/set-tag",
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10.0) as response:
            assert response.status == 200

    def _runs_said(self) -> int:
        return self.output.count(RUNNING) if self._output.exists() else 0

    def _settled(self, already: int) -> bool:
        assert self._process is not None, "not started"
        return self._process.poll() is not None or self._runs_said() > already


def own_environment() -> dict[str, str]:
    """The environment without `PENSTOCK_*` variables of whoever runs the tests."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}

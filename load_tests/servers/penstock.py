"""Our own server: `penstock up --models` on a folder of its own, without MLflow."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.models.small import row_shape, sample_rows
from load_tests.server import MAX_BATCH_SIZE, Encoding, HttpRequest, Model, Rows, ServerError
from load_tests.servers import oip
from load_tests.servers.forms import ENTRY
from load_tests.servers.processes import descendants, title
from load_tests.servers.verification import post

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.01

ROLES = {
    "penstock gateway": "gateway",
    "penstock replica": "replica",
    "penstock job-port": "job port",
    "penstock worker": "agent",
    "penstock registry-sync": "sync",
}
"""By the titles that processes give themselves."""

STORE = "store"
REST = "rest"


@dataclass(frozen=True)
class Penstock:
    """How many processes it has, and how it differs from a system as it comes.

    Attributes:
        replicas: of each model.
        environment: variables beside our own.
        tags: of each model, beside or instead of those that all scenarios share.
        entry: what `python -m` starts.
    """

    name: str = "penstock"
    gateways: int = 1
    replicas: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str | int] = field(default_factory=dict)
    entry: str = ENTRY

    @property
    def encodings(self) -> Sequence[Encoding]:
        """See `Server`."""
        return (Encoding.JSON, Encoding.BINARY)

    def start(self, model: Model, work_dir: Path) -> RunningPenstock:
        """See `Server`."""
        return self.start_all([model], work_dir)

    def start_all(self, models: Sequence[Model], work_dir: Path) -> RunningPenstock:
        """Serve several models; returns once each has answered.

        Raises:
            ServerError: with the end of the logs.
        """
        for model in models:
            self.put(model, work_dir)
        running = self.launch(models[0], work_dir)
        try:
            for model in models:
                running.until_answered(model)
        except BaseException:
            running.stop()
            raise
        return running

    def launch(self, model: Model, work_dir: Path) -> RunningPenstock:
        """Start on the models that are in `work_dir` already, and wait for nothing."""
        port, metrics_port = free_port(), free_port()
        command = [
            *(sys.executable, "-P", "-m", self.entry, "up"),
            *("--models", str(work_dir / "models"), "--data-dir", str(work_dir / "data")),
            *("--port", str(port), "--metrics-port", str(metrics_port)),
            *("--gateways", str(self.gateways), "--drain-grace-s", "5"),
        ]
        log = work_dir / "up.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=clean_environment() | dict(self.environment),
                start_new_session=True,  # a Ctrl-C is ours to handle: we end it in order
            )
        return RunningPenstock(process, model, port, metrics_port, work_dir)

    def put(self, model: Model, work_dir: Path) -> None:
        """Lay out every version of a model, with one thread for each replica."""
        target = work_dir / "models" / model.name
        shutil.copytree(model.path.parent.parent, target)
        tags: dict[str, str | int] = {
            "penstock.threads": 1,
            "penstock.max_batch_size": MAX_BATCH_SIZE,
            "penstock.replicas": self.replicas,
            **self.tags,
        }
        lines = [f"{name}: {value}\n" for name, value in tags.items()]
        (target / "tags.yaml").write_text("".join(lines))


class RunningPenstock:
    """See `Running`; `request` and `pids` are of the system as it is now."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        model: Model,
        port: int,
        metrics_port: int,
        work_dir: Path,
    ) -> None:
        self._process = process
        self._model = model
        self._port = port
        self._metrics_port = metrics_port
        self._work_dir = work_dir

    @property
    def port(self) -> int:
        """Of the gateways."""
        return self._port

    @property
    def version(self) -> str:
        """Of Penstock."""
        return importlib.metadata.version("penstock")

    @property
    def models_dir(self) -> Path:
        """The folder of models that is followed."""
        return self._work_dir / "models"

    @property
    def logs_dir(self) -> Path:
        """One log for each process, in JSON."""
        return self._work_dir / "data" / "logs"

    @property
    def launcher_pid(self) -> int:
        """Of `penstock up`."""
        return self._process.pid

    def pids(self) -> Mapping[str, Sequence[int]]:
        """See `Running`."""
        roles: dict[str, list[int]] = {}
        for pid in descendants(self._process.pid):
            roles.setdefault(_role(title(pid)), []).append(pid)
        return roles

    def request(self, encoding: Encoding, rows: Rows) -> HttpRequest:
        """See `Running`."""
        return oip.infer_request(self._model.name, encoding, rows)

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        """See `Running`."""
        return oip.infer_answer(headers, body)

    def until_answered(self, model: Model) -> None:
        """Wait until a model answers.

        Raises:
            ServerError: if it does not in time, or `penstock up` ended.
        """
        rows = sample_rows(model, 1)[0].reshape(1, *row_shape(model))
        self.until_accepted(oip.infer_request(model.name, Encoding.BINARY, rows))

    def until_accepted(self, request: HttpRequest) -> float:
        """Send a request again and again until it gets a 200; returns the time of that.

        Raises:
            ServerError: if it does not in time, or `penstock up` ended.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        last = "nothing listened"
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                raise ServerError(f"penstock up ended: {self._tail()}")
            try:
                status, _, body = post(self._port, request)
            except (OSError, http.client.HTTPException) as error:
                last = repr(error)
            else:
                if status == 200:
                    return time.time()
                last = f"{status} {body[:200]!r}"
            time.sleep(POLL_S)
        raise ServerError(f"no answer in {START_TIMEOUT_S:.0f} s ({last}): {self._tail()}")

    def metrics(self) -> str:
        """The sum of all processes' metrics, as Prometheus' text.

        Raises:
            ServerError: if they are not to be had.
        """
        url = f"http://127.0.0.1:{self._metrics_port}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return str(response.read().decode())
        except OSError as error:
            raise ServerError(f"no metrics: {error}") from error

    def stop(self) -> None:
        """See `Running`."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its guardian ends the rest
            self._process.wait()

    def _tail(self) -> str:
        texts = []
        for log in [self._work_dir / "up.log", *sorted(self.logs_dir.glob("*.log"))]:
            with contextlib.suppress(OSError):
                lines = log.read_text(errors="replace").splitlines()[-8:]
                texts.append(f"\n{log.name}: " + "\n  ".join(line[:300] for line in lines))
        return "".join(texts) or "it logged nothing"


@contextlib.contextmanager
def serving(server: Penstock, models: Sequence[Model], work_dir: Path) -> Iterator[RunningPenstock]:
    """A system for as long as the block lasts."""
    running = server.start_all(models, work_dir)
    try:
        yield running
    finally:
        running.stop()


def clean_environment() -> dict[str, str]:
    """Ours without `PENSTOCK_*` variables, so that a run does not depend on them."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _role(process_title: str) -> str:
    for beginning, role in ROLES.items():
        if process_title.startswith(beginning):
            return role
    return STORE if "valkey-server" in process_title else REST

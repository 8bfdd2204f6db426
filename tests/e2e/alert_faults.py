"""Faults of a real system that alerts are about: what is done, and which alerts are to fire.

Each is recorded in the time that it takes: alerts look at minutes.
`python -m tests.e2e.alert_faults` records all of them anew, or those that are named, side by side,
for the recordings to be committed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx

from tests.e2e.folder import folder_system
from tests.e2e.job_client import JobClient, numbers
from tests.e2e.recording import FOLDER, Recorder, Recording
from tests.e2e.system import LocalSystem, penstock
from tests.support import mlflow_models
from tests.support.waiting import wait_until

READY_TIMEOUT_S = 120.0
MINUTE = 60.0
BAD, DEADLY = 77, 99
"""Inputs that make the model `moody` raise, and end its process."""

REQUESTS_PER_S = 20
MISSING = ["penstock-no-such-package==1.0"]
MODEL = "moody"


@dataclass(frozen=True)
class Fires:
    """An alert that a fault brings about.

    Attributes:
        labels: of the alert, beside those that all have.
        within_s: latest after the fault began; at a scrape's precision.
        not_before_s: earliest after it began.
        over_within_s: latest after the fault ended that it fires no more.
    """

    alert: str
    within_s: int
    not_before_s: int
    over_within_s: int
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        make: makes it, in a system that serves `moody`, while all is recorded.
        fires: all alerts that are to fire, and none else.
        environment: settings of the system.
    """

    make: Callable[[LocalSystem, Recorder], None]
    fires: tuple[Fires, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def record(fault: Fault, base: Path) -> Recording:
    """Have a system with one model, do it, and keep what was scraped."""
    system = folder_system(base)
    system.environment = dict(fault.environment)  # what we ship, and what the fault needs
    mlflow_models.moody(base / "models" / MODEL / "1")
    system.start()
    try:
        ready = f"/v2/models/{MODEL}/ready"
        wait_until(lambda: system.get(ready)[0] == 200, READY_TIMEOUT_S, "it is ready")
        recorder = Recorder(system.metrics_port)
        fault.make(system, recorder)
        return recorder.recording()
    finally:
        system.stop()


@contextmanager
def traffic(system: LocalSystem, bad_every: int = 0) -> Iterator[None]:
    """Requests to the model, one in `bad_every` of which makes it raise; 0: none."""
    over = threading.Event()

    def send() -> None:
        count = 0
        with httpx.Client(base_url=system.url, timeout=30.0) as client:
            while not over.wait(1 / REQUESTS_PER_S):
                count += 1
                value = BAD if bad_every and count % bad_every == 0 else 1.0
                client.post(f"/v2/models/{MODEL}/infer", json=numbers(value))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _nothing(system: LocalSystem, recorder: Recorder) -> None:
    """A healthy system, with a swap under traffic."""
    with traffic(system):
        recorder.run(MINUTE)
        recorder.fault_begins()
        _put(system, mlflow_models.moody)
        recorder.run(5 * MINUTE)
        recorder.fault_ends()
        recorder.run(MINUTE)


def _failing(system: LocalSystem, recorder: Recorder, bad_every: int) -> None:
    with traffic(system):
        recorder.run(MINUTE)
    recorder.fault_begins()
    with traffic(system, bad_every):
        recorder.run(8 * MINUTE)
    recorder.fault_ends()
    with traffic(system):
        recorder.run(3 * MINUTE)


def _failing_version(system: LocalSystem, recorder: Recorder) -> None:
    """A version that cannot be loaded; at last it is taken away."""
    recorder.run(MINUTE)
    _put(
        system,
        lambda folder: mlflow_models.python_model(
            folder, lambda x, params: x, mlflow_models.NUMBERS, MISSING
        ),
    )
    recorder.fault_begins()
    recorder.run(8 * MINUTE)
    _second(system).rename(system.data_dir.parent / "taken away")
    recorder.fault_ends()
    recorder.run(MINUTE)


def _dead_letter(system: LocalSystem, recorder: Recorder) -> None:
    """A job that ends two replicas; at last it is forgotten."""
    recorder.run(MINUTE)
    recorder.fault_begins()
    client = JobClient(system.url)
    path = client.submit(MODEL, DEADLY)
    recorder.run(4 * MINUTE)
    job = client.finished(path)
    assert job["dead"], job
    done = penstock("jobs", "forget", job["id"], "--url", system.url)
    assert done.returncode == 0, done.stdout + done.stderr
    recorder.fault_ends()
    recorder.run(MINUTE)


def _registry_away(system: LocalSystem, recorder: Recorder) -> None:
    """The folder of models is not there, as after a mount failed."""
    models, away = system.data_dir.parent / "models", system.data_dir.parent / "away"
    recorder.run(MINUTE)
    models.rename(away)
    recorder.fault_begins()
    recorder.run(5 * MINUTE)
    away.rename(models)
    recorder.fault_ends()
    recorder.run(6 * MINUTE)


def _no_replica(system: LocalSystem, recorder: Recorder) -> None:
    """A replica dies, and its agent hangs: nobody starts another."""
    with traffic(system), traffic(system):
        recorder.run(MINUTE)
        worker = system.system_file()["processes"]["worker-0"]
        os.kill(worker, signal.SIGSTOP)
        _kill_replica(system)
        recorder.fault_begins()
        recorder.run(2.5 * MINUTE)
        os.kill(worker, signal.SIGCONT)
        recorder.fault_ends()
        recorder.run(2 * MINUTE)


def _crashes(system: LocalSystem, recorder: Recorder) -> None:
    """A replica dies again and again."""
    recorder.run(MINUTE)
    recorder.fault_begins()
    for _ in range(6):
        _kill_replica(system)
        recorder.run(0.5 * MINUTE)
    recorder.fault_ends()
    recorder.run(16 * MINUTE)


def _overload(system: LocalSystem, recorder: Recorder) -> None:
    """More requests at a time than may wait."""
    with traffic(system):
        recorder.run(MINUTE)
    recorder.fault_begins()
    with traffic(system), traffic(system), traffic(system), traffic(system):
        recorder.run(7 * MINUTE)
    recorder.fault_ends()
    with traffic(system):
        recorder.run(6 * MINUTE)


def _no_leader(system: LocalSystem, recorder: Recorder) -> None:
    """registry_sync hangs."""
    recorder.run(MINUTE)
    sync = system.system_file()["processes"]["registry-sync-0"]
    os.kill(sync, signal.SIGSTOP)
    recorder.fault_begins()
    recorder.run(2.5 * MINUTE)
    os.kill(sync, signal.SIGCONT)
    recorder.fault_ends()
    recorder.run(MINUTE)


def _down(system: LocalSystem, recorder: Recorder) -> None:
    """All is stopped, and started again."""
    recorder.run(MINUTE)
    assert system.stop() == 0, system.output
    recorder.fault_begins()
    recorder.run(2 * MINUTE)
    recorder.fault_ends()
    system.launch()
    recorder.run(2 * MINUTE)


def _deleted(system: LocalSystem, recorder: Recorder) -> None:
    """The model that serves is deleted, beside another one; at last it is there again."""
    models, away = system.data_dir.parent / "models", system.data_dir.parent / "away"
    fresh = mlflow_models.moody(system.data_dir.parent / "fresh")
    (models / "other").mkdir()
    fresh.rename(models / "other" / "1")
    recorder.run(MINUTE)
    (models / MODEL).rename(away)
    recorder.fault_begins()
    recorder.run(2.25 * MINUTE)
    away.rename(models / MODEL)
    recorder.fault_ends()
    recorder.run(0.75 * MINUTE)


def _second(system: LocalSystem) -> Path:
    return system.data_dir.parent / "models" / MODEL / "2"


def _put(system: LocalSystem, save: Callable[[Path], Path]) -> None:
    """Add version 2, at once and whole."""
    save(system.data_dir.parent / "fresh").rename(_second(system))


def _kill_replica(system: LocalSystem) -> None:
    """Kill the one replica, once there is one that is ready."""

    def pids() -> list[int]:
        (model,) = system.status()["models"]
        replicas = [each for revision in model["revisions"] for each in revision["replicas"]]
        return [each["pid"] for each in replicas if each["state"] == "ready"]

    wait_until(lambda: len(pids()) == 1, READY_TIMEOUT_S, "a replica is ready")
    os.kill(pids()[0], signal.SIGKILL)


OF_MODEL = {"model": MODEL}
OF_VERSION = {"model": MODEL, "version": "1"}
OF_FAILED = {"model": MODEL, "version": "2", "phase": "failed"}

FAULTS: dict[str, Fault] = {
    "healthy": Fault(_nothing),
    "one_failure_in_200": Fault(partial(_failing, bad_every=200)),
    "one_failure_in_30": Fault(
        partial(_failing, bad_every=30),
        (Fires("PenstockFailures", 420, 300, 120, OF_MODEL),),
    ),
    "version_that_fails": Fault(
        _failing_version, (Fires("PenstockVersionFailed", 360, 300, 30, OF_FAILED),)
    ),
    "dead_letter": Fault(_dead_letter, (Fires("PenstockDeadLetters", 120, 60, 30, OF_MODEL),)),
    "registry_away": Fault(
        _registry_away,
        (
            Fires("PenstockRegistryUnreachable", 60, 0, 330),
            Fires("PenstockRegistryNotRead", 210, 150, 30),
        ),
    ),
    "deleted": Fault(_deleted, (Fires("PenstockVersionGone", 120, 60, 30),)),
    "no_replica": Fault(_no_replica, (Fires("PenstockNoReplica", 120, 60, 60),)),
    "crashes": Fault(_crashes, (Fires("PenstockReplicaRestarts", 240, 60, 930, OF_VERSION),)),
    "overload": Fault(
        _overload,
        (
            Fires("PenstockShedding", 360, 300, 330),
            Fires("PenstockFailures", 420, 300, 120, OF_MODEL),
        ),
        {"PENSTOCK_QUEUE_LIMIT": "1"},
    ),
    "no_leader": Fault(_no_leader, (Fires("PenstockNoLeader", 120, 60, 60),)),
    "down": Fault(
        _down, (Fires("PenstockDown", 90, 60, 75), Fires("PenstockNoLeader", 90, 60, 75))
    ),
}


def record_side_by_side(names: list[str], folder: Path) -> None:
    """Record faults into a folder, each by a process of its own: they mostly wait.

    Raises:
        AssertionError: if one of them failed; it has said why.
    """
    command = [sys.executable, "-m", "tests.e2e.alert_faults", "--one", "--into", str(folder)]
    processes = {name: subprocess.Popen([*command, name]) for name in names}
    failed = [name for name, process in processes.items() if process.wait() != 0]
    assert not failed, failed


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.alert_faults")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAULTS))
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder of the recordings")
    parser.add_argument("--one", action="store_true", help="in this process, the one NAME")
    given = parser.parse_args()
    if not given.one:
        record_side_by_side(given.names or list(FAULTS), given.into)
        return
    (name,) = given.names
    with tempfile.TemporaryDirectory(prefix="penstock-fault-") as base:
        record(FAULTS[name], Path(base)).write(name, given.into)


if __name__ == "__main__":
    main()

"""The end of a system, or of a worker, while a job runs that may hold it up for long."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.deploy.local.up.system_plan import KILL_AFTER_GRACE_S
from tests.e2e.folder import folder_system
from tests.e2e.job_client import JobClient
from tests.e2e.system import LocalSystem, alive, penstock
from tests.support import mlflow_models
from tests.support.waiting import wait_until

EXECUTION_S = KILL_AFTER_GRACE_S + 8
"""Longer than a worker without grace would be left alive; it drains for as long as the tag says."""

AT_ONCE_S = 10.0

DRAIN_BEGINS_S = 30.0
"""Longest until a worker drains: gateways and registry_sync end before it is told to."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    """One worker, and one model whose jobs may hold it up; nothing else is given time."""
    system = folder_system(tmp_path, "--drain-grace-s", "0", "--handover-grace-s", "0")
    mlflow_models.napping(tmp_path / "models" / "napping" / "1")
    tags = tmp_path / "models" / "napping" / "tags.yaml"
    tags.write_text(f"penstock.drain_timeout_s: {EXECUTION_S + 20}\n")
    system.start()
    ready = "/v2/models/napping/ready"
    wait_until(lambda: system.get(ready)[0] == 200, 60, "the model is ready")
    try:
        yield system
    finally:
        system.stop()


def running_job(system: LocalSystem) -> str:
    """The path of a job that has just begun, and takes EXECUTION_S."""
    client = JobClient(system.url)
    path = client.submit("napping", EXECUTION_S * 1000)
    wait_until(lambda: client.job(path)["state"] == "running", 20, "it runs")
    return path


def worker_log(system: LocalSystem) -> str:
    """What the only worker logged."""
    return (system.data_dir / "logs" / "worker-0.log").read_text(errors="replace")


def test_a_job_that_runs_ends_before_the_system_does(system: LocalSystem) -> None:
    path = running_job(system)
    assert system.stop() == 0, system.output
    system.start()
    document = JobClient(system.url).finished(path)
    assert (document["state"], document["attempts"]) == ("succeeded", 1)
    assert "was killed" not in system.output


def test_a_job_that_runs_ends_before_its_worker_is_replaced(system: LocalSystem) -> None:
    path = running_job(system)
    where = ["--data-dir", str(system.data_dir)]
    done = penstock("restart", "workers", *where, timeout_s=120)
    assert done.returncode == 0, done.stderr
    document = JobClient(system.url).finished(path)
    assert (document["state"], document["attempts"]) == ("succeeded", 1)
    assert "was killed" not in system.output


def test_a_second_ctrl_c_ends_it_at_once(system: LocalSystem) -> None:
    running_job(system)
    processes = system.processes()
    process = system.send(signal.SIGINT)
    wait_until(lambda: "draining" in system.output, AT_ONCE_S, "it drains")
    wait_until(lambda: "worker drains" in worker_log(system), DRAIN_BEGINS_S, "its worker drains")
    assert process.poll() is None
    started_s = time.monotonic()
    assert system.stop(signal.SIGINT) == 0
    assert time.monotonic() - started_s < AT_ONCE_S
    assert not any(map(alive, processes))

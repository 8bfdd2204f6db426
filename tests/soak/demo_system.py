"""The demo with two of everything, for runs in which anything may be killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mlflow.tracking import MlflowClient

from tests.e2e.system import LocalSystem, alive
from tests.e2e.test_faults import replicas
from tests.support.waiting import wait_until


@contextlib.contextmanager
def demo_system(folder: Path) -> Iterator[LocalSystem]:
    """The demo, with two replicas of `digits`; it ends gently, and leaves no process behind."""
    system = LocalSystem(folder / "data", "--demo", "--gateways", "2", "--workers", "2")
    system.start()
    pids: set[int] = set()
    try:
        client = MlflowClient(system.mlflow_uri)
        client.set_registered_model_tag("digits", "penstock.replicas", "2")
        wait_until(lambda: len(replicas(system)) == 2, 60, "two replicas of digits are ready")
        yield system
        pids = system.processes()
    finally:
        assert system.stop() == 0
    assert not any(map(alive, pids)), "nothing is left behind"

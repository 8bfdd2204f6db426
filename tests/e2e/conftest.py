"""Systems that end-to-end tests share: MLflow's first start and the demo take half a minute."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.system import LocalSystem, alive


def long_data_dir(base: Path) -> Path:
    """A data directory whose path has a space and more than 150 characters."""
    data_dir = base / ("a data dir " + "d" * 150) / ".penstock"
    data_dir.parent.mkdir()
    return data_dir


@pytest.fixture(scope="session")
def one_demo_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """`penstock up --demo`, two gateways and two workers; of its models it serves `digits` alone.

    Requests whose clients sample them are traced, to the system's own MLflow.
    """
    data_dir = long_data_dir(tmp_path_factory.mktemp("demo"))
    system = LocalSystem(data_dir, "--demo", "--gateways", "2", "--workers", "2")
    system.environment = {
        "PENSTOCK_INCLUDE": '["digits"]',
        "OTEL_EXPORTER_OTLP_ENDPOINT": system.mlflow_uri,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=0",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    processes: set[int] = set()
    try:
        system.start()
        yield system
        processes = system.processes()
    finally:
        exit_code = system.stop(signal.SIGINT)
    assert exit_code == 0, system.output
    assert system.output.splitlines()[-1] == "stopped"
    assert not any(map(alive, processes))
    assert not (data_dir / "system.json").exists()


@pytest.fixture
def demo_system(one_demo_system: LocalSystem) -> LocalSystem:
    """The demo's system, which runs. Tests may tag versions of `digits`, and may end it."""
    if not one_demo_system.runs:
        one_demo_system.start()
    return one_demo_system

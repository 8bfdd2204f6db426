"""`penstock up`, whole: what it prints works, what it starts ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import LocalSystem, alive, free_port, penstock
from tests.support.waiting import wait_until

SWAP_TIMEOUT_S = 30.0


def printed_commands(system: LocalSystem) -> list[str]:
    """The curl commands of its last start, as a user would paste them."""
    lines = (line.strip() for line in system.output.splitlines())
    return [line for line in lines if line.startswith("curl ")][-3:]


def paste(command: str) -> dict[str, Any]:
    """Run a printed command in a shell; the JSON that it prints."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_the_printed_commands_work_when_pasted(demo_system: LocalSystem) -> None:
    predict, swap, status = printed_commands(demo_system)
    answer = paste(predict)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert outputs["label"] == [1]
    assert answer["model_name"] == "digits"
    assert paste(status)["name"] == "digits"
    paste(swap)
    wait_until(
        lambda: paste(predict)["model_version"] == "2", SWAP_TIMEOUT_S, "version 2 answers", 0.2
    )


def test_status_shows_the_replicas(demo_system: LocalSystem) -> None:
    told = penstock("status", "--json", "--data-dir", str(demo_system.data_dir))
    assert told.returncode == 0, told.stderr
    status = json.loads(told.stdout)
    (digits,) = [each for each in status["models"] if each["model"] == "digits"]
    (stable,) = [each for each in digits["revisions"] if each["role"] == "stable"]
    (replica,) = [each for each in stable["replicas"] if each["state"] == "ready"]
    assert alive(replica["pid"])
    assert replica["worker"] in ("worker-0", "worker-1")
    assert replica["device"] == "cpu"
    assert {gateway["gateway"] for gateway in status["gateways"]} == {"gateway-0", "gateway-1"}
    table = penstock("status", "--data-dir", str(demo_system.data_dir))
    assert table.returncode == 0
    assert "digits" in table.stdout


def test_the_demo_client_has_no_failures(demo_system: LocalSystem) -> None:
    done = penstock("demo-client", "--data-dir", str(demo_system.data_dir))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "450 in" in done.stdout
    assert "failed 0" in done.stdout
    accuracy = next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert float(accuracy.split()[1]) > 0.95


def test_the_sum_of_metrics_is_served(demo_system: LocalSystem) -> None:
    demo_system.get("/v2/models/digits")
    url = f"http://127.0.0.1:{demo_system.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        page = response.read().decode()
    assert "penstock_" in page


def test_a_second_up_on_the_same_data_dir_is_one_line(demo_system: LocalSystem) -> None:
    done = penstock("up", "--data-dir", str(demo_system.data_dir), "--port", str(free_port()))
    assert done.returncode == 1
    assert done.stderr == (
        f"penstock: already running on {demo_system.data_dir} (pid {demo_system.pid})\n"
    )


@pytest.mark.parametrize("flag", ["--port", "--mlflow-port", "--metrics-port"])
def test_a_taken_port_is_one_line(demo_system: LocalSystem, tmp_path: Path, flag: str) -> None:
    other = LocalSystem(tmp_path / "other")
    taken = {
        "--port": demo_system.port,
        "--mlflow-port": demo_system.mlflow_port,
        "--metrics-port": demo_system.metrics_port,
    }[flag]
    done = penstock(*other.command()[4:], flag, str(taken))
    assert done.returncode == 1
    assert done.stderr == (
        f"penstock: port {taken} on 127.0.0.1 is taken; choose another with {flag}\n"
    )
    assert not list((tmp_path / "other" / "logs").iterdir())


def test_a_child_that_died_is_started_again(demo_system: LocalSystem) -> None:
    pid = demo_system.system_file()["processes"]["gateway-1"]
    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        successor = demo_system.system_file()["processes"].get("gateway-1")
        gateways = {each["pid"] for each in demo_system.status()["gateways"]}
        return successor != pid and successor in gateways

    wait_until(is_back, 20, "another gateway-1", 0.2)
    assert "gateway-1: killed by SIGKILL; starts again" in demo_system.output
    assert demo_system.get("/v2/models/digits/ready")[0] == 200


def versions_in_mlflow(system: LocalSystem) -> list[dict[str, Any]]:
    """All versions of the demo's model, with what operators and the demo put on them."""
    url = f"{system.mlflow_uri}/api/2.0/mlflow/model-versions/search"
    with urllib.request.urlopen(url, timeout=10) as response:
        versions = json.load(response)["model_versions"]
    kept = ("version", "run_id", "creation_timestamp")
    roles = [
        [tag for tag in version.get("tags", []) if tag["key"] == "penstock.role"]
        for version in versions
    ]
    return [
        {**{key: version[key] for key in kept}, "role": role}
        for version, role in zip(versions, roles, strict=True)
    ]


def test_kill_9_leaves_nothing_and_the_next_start_serves_the_same(
    demo_system: LocalSystem,
) -> None:
    processes = demo_system.processes()
    assert len(processes) >= 9  # guardian, store, MLflow (2), gateways (2), worker, replica, sync
    predict = printed_commands(demo_system)[0]
    served = paste(predict)
    versions = versions_in_mlflow(demo_system)
    assert len(versions) >= 2
    demo_system.kill()

    # At once, without waiting for the last life's processes to end, and on the same ports.
    demo_system.start()
    assert not any(map(alive, processes))
    again = paste(predict)
    assert again["model_version"] == served["model_version"]
    assert again["outputs"] == served["outputs"]
    assert versions_in_mlflow(demo_system) == versions


def serves_digits(system: LocalSystem) -> bool:
    return system.get("/v2/models/digits/ready")[0] == 200


def test_with_mlflow_down_everything_else_starts_and_serves(demo_system: LocalSystem) -> None:
    wait_until(lambda: serves_digits(demo_system), 30, "digits is served")
    processes = demo_system.processes()
    assert demo_system.stop(signal.SIGINT) == 0, demo_system.output  # the next to need it starts it
    assert not any(map(alive, processes))
    again = LocalSystem(demo_system.data_dir, "--mlflow-uri", "http://127.0.0.1:9")
    try:
        again.start()
        wait_until(lambda: serves_digits(again), 30, "digits is served without MLflow")
    finally:
        assert again.stop() == 0


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    system = LocalSystem(tmp_path / "data", "--drain-grace-s", "1")
    system.launch()
    wait_until(lambda: "MLflow" in system.output, 20, "MLflow is being started")
    wait_until(lambda: len(system.processes()) >= 4, 20, "children run", 0.1)
    processes = system.processes()
    assert system.stop(signal.SIGINT) == 0
    assert not any(map(alive, processes))
    done = penstock("status", "--data-dir", str(system.data_dir))
    assert "nothing runs on" in done.stderr

"""The cause of a request or a job that failed is found in one step, by what its client has."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.folder import SWAP_TIMEOUT_S, folder_system, status_of
from tests.e2e.job_client import JobClient, numbers
from tests.e2e.system import LocalSystem, alive, penstock
from tests.support.mlflow_models import NUMBERS, python_model
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


def picky(folder: Path) -> Path:
    """y = x; 77 makes it raise a KeyError, and 99 end the process."""

    def predict(x: Any, params: Any) -> Any:
        import os  # noqa: PLC0415 - runs in the replica

        if 99 in x:
            os._exit(1)
        return {"other": x}["width"] if 77 in x else x

    return python_model(folder, predict, NUMBERS)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    base = tmp_path_factory.mktemp("logs")
    system = folder_system(base)
    (base / "models" / "picky").mkdir()
    picky(base / "models" / "picky" / "1")
    processes: set[int] = set()
    try:
        system.start()
        wait_until(
            lambda: status_of(base / "models", "picky", 1)[0] == "serving",
            SWAP_TIMEOUT_S,
            "picky serves",
        )
        yield system
        processes = system.processes()
    finally:
        system.stop(signal.SIGINT)
    assert not any(map(alive, processes))


def logs_of(system: LocalSystem, *arguments: str) -> str:
    ended = penstock("logs", *arguments, "--data-dir", str(system.data_dir))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_cause_of_a_request_that_failed_is_found_by_its_id(system: LocalSystem) -> None:
    answer = JobClient(system.url).http.post("/v2/models/picky/infer", json=numbers(77))
    assert answer.status_code == 500
    assert "KeyError" not in answer.text
    request_id = answer.headers["x-request-id"]
    raw = logs_of(system, "--request", request_id, "--json").splitlines()
    execution, request = (json.loads(row) for row in raw)
    assert (request["event"], request["request_id"]) == ("request failed", request_id)
    assert execution["event"] == "execution failed"
    assert execution["exception_type"] == "KeyError"
    assert (execution["model"], execution["version"]) == ("picky", "1")
    assert execution["replica"] == request["attempts"][0]["replica"]
    assert execution["worker"] == request["attempts"][0]["worker"]
    assert "    KeyError: 'width'" in logs_of(system, "--request", request_id).splitlines()


def test_the_cause_of_a_job_that_failed_is_found_by_its_id(system: LocalSystem) -> None:
    client = JobClient(system.url)
    path = client.submit("picky", 77)
    document = client.finished(path)
    assert document["state"] == "failed"
    assert "KeyError" not in json.dumps(document)
    assert "    KeyError: 'width'" in logs_of(system, "--job", document["id"]).splitlines()


def test_the_end_of_a_replica_is_found_by_the_request_that_it_died_with(
    system: LocalSystem,
) -> None:
    answer = JobClient(system.url).http.post("/v2/models/picky/infer", json=numbers(99))
    assert answer.status_code >= 500  # there is no other replica to try
    request_id = answer.headers["x-request-id"]

    def told() -> bool:
        return "exited with code 1" in logs_of(system, "--request", request_id)

    wait_until(told, SWAP_TIMEOUT_S, "the worker tells of the replica's end")

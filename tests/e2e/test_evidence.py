"""Failures and changes can be traced afterwards: by statuses, history, logs and jobs.

The cause of a request or a job that failed is found in one step, by what its client has.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.folder import SWAP_TIMEOUT_S, folder_system, status_of
from tests.e2e.job_client import JobClient, numbers
from tests.e2e.system import LocalSystem, alive, penstock
from tests.support.mlflow_models import NUMBERS, WIDTH, python_model, vectors
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)

UNMET = "it runs with other versions than it asks for: numpy "
MISTAKE = "penstock.replcias is no tag of Penstock"


def picky(folder: Path) -> Path:
    """y = x * rows, so that it is not batched; it asks for another numpy.

    77 makes it raise a KeyError, and 99 end the process.
    """

    def predict(x: Any, params: Any) -> Any:
        import os  # noqa: PLC0415 - runs in the replica

        if 99 in x:
            os._exit(1)
        return {"other": x}["width"] if 77 in x else x * len(x)

    python_model(folder, predict, NUMBERS)
    (folder / "requirements.txt").write_text("numpy==0.1\n")
    return folder


def broken(folder: Path) -> Path:
    """It fails whatever comes."""

    def predict(x: Any, params: Any) -> Any:
        raise ArithmeticError("no weights\nare here")

    example = np.ones((2, WIDTH), np.float32)
    return python_model(folder, predict, vectors(), example=example)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    base = tmp_path_factory.mktemp("evidence")
    system = folder_system(base, "--error-details", "none")
    model = base / "models" / "picky"
    model.mkdir()
    picky(model / "1")
    (model / "tags.yaml").write_text("penstock.replcias: 2\naliases: {champion: 1}\n")
    processes: set[int] = set()
    try:
        system.start()
        until_status(system, 1, "serving")
        yield system
        processes = system.processes()
    finally:
        system.stop(signal.SIGINT)
    assert not any(map(alive, processes))


def models_of(system: LocalSystem) -> Path:
    return system.data_dir.parent / "models"


def until_status(system: LocalSystem, version: int, status: str) -> str:
    """Wait until a version of `picky` has a status; its message."""

    def is_so() -> bool:
        return status_of(models_of(system), "picky", version)[0] == status

    wait_until(is_so, SWAP_TIMEOUT_S, f"picky/{version} is {status}")
    return status_of(models_of(system), "picky", version)[1]


def told(system: LocalSystem, *command: str) -> str:
    ended = penstock(*command, "--data-dir", str(system.data_dir))
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_what_is_wrong_with_a_version_that_serves_is_told_everywhere(system: LocalSystem) -> None:
    message = until_status(system, 1, "serving")
    shown = told(system, "status")
    (model,) = json.loads(told(system, "status", "--json"))["models"]
    lines = map(json.loads, told(system, "logs", "--model", "picky", "--json").splitlines())
    log = [line["message"] for line in lines if line.get("status") == "serving"]
    for text in (message, shown, model["versions"][0]["message"], log[-1]):
        assert UNMET in text
        assert "not batched: " in text
        assert MISTAKE in text


def test_a_job_keeps_what_was_raised_and_clients_are_not_told(system: LocalSystem) -> None:
    client = JobClient(system.url)
    path = client.submit("picky", 77)
    document = client.finished(path)
    assert document["state"] == "failed"
    assert "KeyError" not in json.dumps(document)
    assert "KeyError" not in client.http.get("/v2/jobs").text
    job = str(document["id"])
    assert "cause       KeyError: 'width'" in told(system, "jobs", "show", job).splitlines()
    assert "    KeyError: 'width'" in told(system, "logs", "--job", job).splitlines()
    shown = json.loads(told(system, "jobs", "show", job, "--json"))
    assert shown == {**document, "error": {**document["error"], "cause": "KeyError: 'width'"}}


def test_the_cause_of_a_request_that_failed_is_found_by_its_id(system: LocalSystem) -> None:
    answer = JobClient(system.url).http.post("/v2/models/picky/infer", json=numbers(77))
    assert answer.status_code == 500
    assert "KeyError" not in answer.text
    request_id = answer.headers["x-request-id"]
    raw = told(system, "logs", "--request", request_id, "--json").splitlines()
    execution, request = (json.loads(row) for row in raw)
    assert (request["event"], request["request_id"]) == ("request failed", request_id)
    assert execution["event"] == "execution failed"
    assert execution["exception_type"] == "KeyError"
    assert (execution["model"], execution["version"]) == ("picky", "1")
    assert execution["replica"] == request["attempts"][0]["replica"]
    assert execution["worker"] == request["attempts"][0]["worker"]
    assert "    KeyError: 'width'" in told(system, "logs", "--request", request_id).splitlines()


def test_a_version_that_failed_leaves_its_reason_and_a_history(system: LocalSystem) -> None:
    model = models_of(system) / "picky"
    broken(model / "2")
    (model / "tags.yaml").write_text("aliases: {champion: 2}\n")
    reason = until_status(system, 2, "failed")
    assert "ArithmeticError: no weights" in reason
    lines = told(system, "logs", "--model", "picky", "--json").splitlines()
    failed = [each for each in map(json.loads, lines) if each["event"] == "load failed"]
    line = failed[-1]
    assert (line["version"], line["exception_type"]) == ("2", "ArithmeticError")
    assert line["replica"]
    assert "in predict" in line["traceback"]

    (model / "tags.yaml").write_text("aliases: {champion: 1}\n")
    message = until_status(system, 2, "withdrawn")
    assert message.startswith("failed 20")
    assert "ArithmeticError: no weights" in message
    wait_until(
        lambda: "withdrawn" in told(system, "history", "picky"), SWAP_TIMEOUT_S, "it is written"
    )
    events = json.loads(told(system, "history", "picky", "--json"))["events"]
    assert [(each["kind"], each["version"], each["who"]) for each in events] == [
        ("wanted", "1", "alias champion = 1"),
        ("switched", "1", "alias champion = 1"),
        ("wanted", "2", "alias champion = 2"),
        ("failed", "2", ""),
        ("wanted", "1", "alias champion = 1"),
        ("withdrawn", "2", ""),
    ]
    rows = told(system, "history", "picky", "--limit", "1").splitlines()
    (row,) = [row for row in rows if "withdrawn" in row]
    assert "ArithmeticError" in row


def test_the_end_of_a_replica_is_found_by_the_request_that_it_died_with(
    system: LocalSystem,
) -> None:
    answer = JobClient(system.url).http.post("/v2/models/picky/infer", json=numbers(99))
    assert answer.status_code >= 500  # there is no other replica to try
    request_id = answer.headers["x-request-id"]

    def is_told() -> bool:
        return "exited with code 1" in told(system, "logs", "--request", request_id)

    wait_until(is_told, SWAP_TIMEOUT_S, "the worker tells of the replica's end", 0.5)

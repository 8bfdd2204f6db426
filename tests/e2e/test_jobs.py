"""Jobs as clients meet them, at a real `penstock up`: one system for all of these."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.folder import folder_system
from tests.e2e.job_client import Following, JobClient, Polling, numbers
from tests.e2e.system import LocalSystem, penstock
from tests.e2e.webhook_receiver import is_signed, receiving
from tests.support import mlflow_models
from tests.support.models import affine
from tests.support.waiting import wait_until

READY_TIMEOUT_S = 60.0
LARGE = 12_500_000
"""Numbers in a row of the model `wide`: 50 MB."""

STEPS = 200
"""Of the model `painting`, 0.1 s each: longer than a restart of the gateways on a busy machine."""

SWAP_MS = 15_000.0
"""Longer than it takes to load another version, and shorter than a replica may drain."""

SETTINGS = {
    "PENSTOCK_WEBHOOK_ALLOW_NETWORKS": '["127.0.0.0/8"]',
    "PENSTOCK_WEBHOOK_RETRY_DELAYS_S": "[0.2, 0.2, 0.2]",
    "PENSTOCK_JOBS_COLLECT_S": "0.5",
    "PENSTOCK_JOBS_MOVE_AFTER_S": "1",
}

ALONE = "penstock.max_batch_size: 1\npenstock.job_concurrency: 1\n"
"""One job at a time, and none leased ahead."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """One gateway, one worker, and three small models."""
    base = tmp_path_factory.mktemp("jobs")
    system = folder_system(base)
    system.environment |= SETTINGS
    models = base / "models"
    mlflow_models.painting(models / "painting" / "1")
    mlflow_models.napping(models / "napping" / "1")
    (models / "napping" / "tags.yaml").write_text(ALONE)
    affine(models / "wide" / "1", 2.0, width=LARGE)
    (models / "wide" / "tags.yaml").write_text(ALONE)
    (models / "painting" / "tags.yaml").write_text("penstock.jobs: only\n")
    system.start()
    try:
        for model in ("painting", "napping", "wide"):
            wait_until(partial(is_ready, system, model), READY_TIMEOUT_S, f"{model} is ready")
        yield system
    finally:
        assert system.stop() == 0, system.output


def is_ready(system: LocalSystem, model: str) -> bool:
    return system.get(f"/v2/models/{model}/ready")[0] == 200


@pytest.fixture
def client(system: LocalSystem) -> JobClient:
    return JobClient(system.url)


def test_a_webhook_is_told_until_it_listens(system: LocalSystem, client: JobClient) -> None:
    secret_file = system.data_dir / "webhook-secret"
    assert str(secret_file) in system.output
    assert secret_file.stat().st_mode & 0o777 == 0o600
    with receiving(500, 503) as receiver:
        path = client.submit("napping", 1.0, webhook=receiver.url)
        assert client.finished(path)["state"] == "succeeded"
        wait_until(lambda: len(receiver.came) == 3, 20, "it was told three times")
    secret = secret_file.read_text().strip()
    assert all(is_signed(secret, headers, body) for headers, body in receiver.came)
    assert len({headers["webhook-id"] for headers, _ in receiver.came}) == 1
    event = json.loads(receiver.came[-1][1])
    assert (event["type"], event["data"]["url"]) == ("job.succeeded", path)


def test_a_webhook_that_is_given_up_is_listed(system: LocalSystem, client: JobClient) -> None:
    with receiving(410) as receiver:
        path = client.submit("napping", 1.0, webhook=receiver.url)
        client.finished(path)
        listed = "/v2/webhooks/undelivered"
        wait_until(lambda: path.rpartition("/")[2] in system.get(listed)[1], 20, "it is listed")
    shown = penstock("jobs", "webhooks", "--data-dir", str(system.data_dir)).stdout
    assert path.rpartition("/")[2] in shown
    assert "410" in shown


def test_events_and_polls_go_on_over_a_restart_of_gateways(
    system: LocalSystem, client: JobClient
) -> None:
    path = client.submit("painting", STEPS)
    following, polling = Following(system.url, path), Polling(system.url, path)
    threads = [threading.Thread(target=each.run) for each in (following, polling)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(following.seen) > 5, 20, "the job runs")
    done = penstock("restart", "gateways", "--data-dir", str(system.data_dir))
    assert done.returncode == 0, done.stderr
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert following.streams > 1
    assert following.states == ["running", "succeeded"]  # that it waits is in the first event
    ids = [event_id for event_id, _, _ in following.seen]
    assert len(ids) == len(set(ids))
    outputs = [data["outputs"][0]["data"] for _, kind, data in following.seen if kind == "output"]
    assert outputs == [[float(STEPS * step)] for step in range(1, STEPS + 1)]
    assert len(polling.states) > 1
    assert polling.states[-1] == "succeeded"


def test_fifty_megabytes_there_and_back(system: LocalSystem, client: JobClient) -> None:
    sent = np.arange(LARGE, dtype=np.float32)
    data = {"binary_data_size": sent.nbytes}
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, LARGE], "parameters": data}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = client.http.post(
        "/v2/models/wide/jobs",
        content=head + sent.tobytes(),
        headers={"inference-header-content-length": str(len(head))},
    )
    assert answer.status_code == 202, answer.text
    path = answer.headers["location"]
    assert client.finished(path)["result_bytes"] > sent.nbytes
    assert sum(each.stat().st_size for each in blobs(system)) > sent.nbytes
    result = client.http.get(f"{path}/result", headers={"accept": "application/octet-stream"})
    length = int(result.headers["inference-header-content-length"])
    assert np.array_equal(np.frombuffer(result.content[length:], np.float32), sent * 2)
    assert client.http.delete(path).status_code == 204
    wait_until(lambda: not blobs(system), 20, "the blobs are gone")
    assert client.http.get(path).status_code == 404


def blobs(system: LocalSystem) -> list[Path]:
    """Files of large payloads and results."""
    return [each for each in (system.data_dir / "blobs").rglob("*") if each.is_file()]


def test_a_queued_and_a_running_job_are_canceled(client: JobClient) -> None:
    running = client.submit("napping", 1500.0)
    wait_until(lambda: client.job(running)["state"] == "running", 20, "it runs")
    queued = client.submit("napping", 1.0)
    assert client.cancel(queued) == (200, "canceled")
    assert client.cancel(running) == (202, "canceling")
    assert client.finished(running)["state"] == "canceled"
    for path in (queued, running):
        assert client.http.get(f"{path}/result").status_code == 410
    assert client.result(after(client, "napping", 2.0))["outputs"][0]["data"] == [2.0]


def test_a_stream_is_canceled_between_two_yields(client: JobClient) -> None:
    started_s = time.monotonic()
    path = client.submit("painting", 400)
    wait_until(lambda: client.job(path)["partial"] is not None, 20, "it has yielded something")
    assert client.cancel(path) == (202, "canceling")
    assert client.finished(path)["state"] == "canceled"
    assert time.monotonic() - started_s < 30  # it would take 40 s
    assert client.result(after(client, "painting", 1))["outputs"][0]["data"] == [1.0]


def test_a_job_expires_in_the_queue(client: JobClient) -> None:
    running = client.submit("napping", 2500.0)
    wait_until(lambda: client.job(running)["state"] == "running", 20, "it runs")
    path = client.submit("napping", 1.0, ttl_seconds=0.5)
    assert client.job(path)["expires_at"] is not None
    assert client.finished(path)["state"] == "expired"
    assert client.http.get(f"{path}/result").status_code == 410
    assert client.finished(running)["state"] == "succeeded"


def after(client: JobClient, model: str, value: float) -> str:
    """Another job, once it has succeeded."""
    path = client.submit(model, value)
    assert client.finished(path)["state"] == "succeeded"
    return path


def test_queued_jobs_of_a_version_that_goes(system: LocalSystem, client: JobClient) -> None:
    running = client.submit("napping", SWAP_MS)
    wait_until(lambda: client.job(running)["state"] == "running", 20, "it runs")
    moved = client.submit("napping", 2.0)
    pinned = client.submit("napping", 2.0, version="1")
    mlflow_models.napping(system.data_dir.parent / "models" / "napping" / "2")
    document = client.finished(moved)
    assert (document["state"], document["version"]) == ("succeeded", "2")
    assert client.result(moved)["model_version"] == "2"
    document = client.finished(pinned)
    assert document["state"] == "failed"
    assert "version 1" in document["error"]["message"], document
    document = client.finished(running)
    assert (document["state"], document["version"]) == ("succeeded", "1"), document


def test_submit_shows_progress_while_it_waits(system: LocalSystem, tmp_path: Path) -> None:
    source = tmp_path / "input.json"
    source.write_text(json.dumps(numbers(10)))
    where = ["--data-dir", str(system.data_dir)]
    done = penstock("submit", "painting", "--input", str(source), "--wait", *where)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outputs"][0]["data"] == [100.0]
    lines = done.stderr.splitlines()
    shown = [line for line in lines if re.fullmatch(r"running: step \d+ .*[1-9]0%", line)]
    assert shown, lines  # which of them depends on how busy the machine is: only the last is kept
    assert lines[-1] == "succeeded 100%"

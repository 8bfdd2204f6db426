"""The scenario `jobs`: what it asks, and how its figures are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from load_tests.peers.job_peer import JOB_RECIPES, JobRecipe
from load_tests.peers.recipes import APPS
from load_tests.peers.venvs import REQUIREMENTS, PeerVenv
from load_tests.report.percentiles import Latency
from load_tests.scenarios.jobs import HEADER, Figures
from load_tests.servers.our_jobs import job_request
from load_tests.servers.redis_server import redis_server
from penstock.shared.jobs.blocking_store import BlockingJobStore
from penstock.shared.jobs.durability import Durability
from penstock.shared.store.keys import Keys


def test_a_job_has_the_body_of_a_call() -> None:
    request = job_request("tiny", np.ones((1, 4), np.float32))
    assert request.path == "/v2/models/tiny/jobs"
    assert json.loads(request.body)["inputs"][0]["data"] == [1, 1, 1, 1]


def test_figures_fill_a_row() -> None:
    figures = Figures(
        name="x",
        submitted=200,
        submits_per_s=100.0,
        submit=Latency(1, 2, 3, 4, 5),
        completed=50,
        completed_per_s=25.0,
        start=Latency(6, 7, 8, 9, 10),
        result=Latency(11, 12, 13, 14, 15),
        cpu_us={"worker": 1000.0, "store": 500.0},
    )
    row = dict(zip(HEADER, figures.row(), strict=True))
    assert row["of those submitted"] == "25%"
    assert row["submit to start p50 ms"] == "6.00"
    assert (row["CPU µs/job"], row["by role"]) == ("1,500", "store 500, worker 1,000")


@pytest.mark.parametrize("recipe", JOB_RECIPES, ids=lambda recipe: recipe.name)
def test_other_queues_are_pinned_and_have_what_they_run(recipe: JobRecipe) -> None:
    text = (REQUIREMENTS / f"{recipe.environment}.txt").read_text()
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    assert {recipe.environment, "redis", "onnxruntime"} <= {pin.partition("==")[0] for pin in pins}
    assert (APPS / f"{recipe.app}.py").exists()
    assert recipe.worker(PeerVenv(recipe.environment))


def test_the_server_has_each_write_on_disk_first(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        store = BlockingJobStore(server.url, Keys("n"))
        assert store.durability() is Durability.ALWAYS
        store.close()

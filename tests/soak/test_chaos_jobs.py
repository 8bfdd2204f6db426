"""The seeded run of everything, with jobs submitted all along: each ends, once.

`CHAOS_SEED=n CHAOS_S=600 make soak` replays a run. Jobs of `digits` are short and move when
versions are swapped; those of `noting` take a while, so kills find some of them running. A job may
fail only if it became a dead letter: it was under way again and again when something was killed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from penstock.shared.jobs.record import FINISHED
from tests.e2e.job_client import numbers
from tests.e2e.load import TOLERANCE, Load
from tests.e2e.system import LocalSystem
from tests.e2e.test_jobs_survive import endings, executions
from tests.e2e.test_swap import load_of
from tests.soak.demo_system import demo_system
from tests.soak.job_load import JobLoad, jobs_of, results_of
from tests.soak.test_chaos import DURATION_S, RECOVERY_S, SEED, Chaos, running
from tests.support import mlflow_models
from tests.support.waiting import wait_until

CALL_CLIENTS = 2
"""Calls go on as well: they are what `Chaos` knows by whether all is well."""

JOB_CLIENTS = 8
PAUSE_S = {"digits": 0.3, "noting": 0.8}
SLEEP_MS = 120.0
"""Of one execution of `noting`: its two replicas are busy more than half of the time."""

END_S = 240.0


class JobChaos(Chaos):
    """Kills and pauses replicas of both models."""

    def ready_noting(self) -> list[dict[str, Any]]:
        """Replicas of `noting` that are ready; none while the store cannot be asked."""
        try:
            return running(replicas_of(self._system, "noting"))
        except (AssertionError, ValueError):
            return []

    def ready(self) -> list[dict[str, Any]]:
        return [*super().ready(), *self.ready_noting()]

    def all_is_well(self, after: str) -> None:
        what = f"seed {SEED}: both models have two replicas again after {after}"
        wait_until(lambda: len(super(JobChaos, self).ready()) == 2, RECOVERY_S, what)
        wait_until(lambda: len(self.ready_noting()) == 2, RECOVERY_S, what)
        wait_until(self._system.mlflow_answers, RECOVERY_S, what)
        before = len(self._load.answers)
        wait_until(lambda: len(self._load.answers) > before + CALL_CLIENTS, RECOVERY_S, what)


def replicas_of(system: LocalSystem, model: str) -> list[dict[str, Any]]:
    """Replicas of a model that are ready."""
    (found,) = [each for each in system.status()["models"] if each["model"] == model]
    all_of_it = [replica for each in found["revisions"] for replica in each["replicas"]]
    return [replica for replica in all_of_it if replica["state"] == "ready"]


def add_noting(client: MlflowClient, folder: Path) -> None:
    """Register the model `noting`, with two replicas."""
    mlflow_models.noting(folder / "noting", SLEEP_MS, folder / "notes")
    (folder / "notes").touch()
    run_id = client.create_run(experiment_id="0").info.run_id
    client.log_artifacts(run_id, str(folder / "noting"), "model")
    client.create_registered_model("noting")
    client.set_registered_model_tag("noting", "penstock.replicas", "2")
    client.set_registered_model_tag("noting", "penstock.max_batch_size", "1")
    made = client.create_model_version("noting", f"runs:/{run_id}/model", run_id)
    client.set_model_version_tag("noting", made.version, "penstock.role", "stable")


def digit(load: Load, number: int) -> dict[str, Any]:
    """A request for one image of digits."""
    data = load.images[number % len(load.images)].tolist()
    return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": data}]}


async def all_ended(url: str, model: str) -> dict[str, dict[str, Any]]:
    """All jobs of a model, once they are finished."""
    give_up = time.monotonic() + END_S
    while True:
        jobs = await jobs_of(url, model)
        left = [job for job in jobs.values() if job["state"] not in FINISHED]
        if not left:
            return jobs
        assert time.monotonic() < give_up, f"seed {SEED}: {len(left)} have not ended: {left[:2]}"
        await asyncio.sleep(1.0)


def of_one(accepted: Mapping[int, set[str]]) -> dict[int, str]:
    """The job of each number; there must be one."""
    twice = {number: ids for number, ids in accepted.items() if len(ids) != 1}
    assert not twice, f"seed {SEED}: submitted twice: {twice}"
    return {number: next(iter(ids)) for number, ids in accepted.items()}


async def check_ends(system: LocalSystem, jobs: JobLoad) -> dict[int, dict[str, Any]]:
    """Every job that was accepted has ended once, and there are no others; results by number."""
    assert not jobs.refused, f"seed {SEED}: {jobs.refused[:3]}"
    ids = of_one(jobs.accepted)
    found = await all_ended(system.url, jobs.model)
    lost, unknown = set(ids.values()) - set(found), set(found) - set(ids.values())
    assert not lost, f"seed {SEED}: lost: {sorted(lost)[:3]}"
    assert not unknown, f"seed {SEED}: nobody was told of them: {sorted(unknown)[:3]}"
    failed = [job for job in found.values() if job["state"] != "succeeded"]
    assert all(job["dead"] for job in failed), f"seed {SEED}: {failed[:3]}"
    assert await endings(system, sorted(found)) == {1: len(found)}, f"seed {SEED}"
    results = await results_of(
        system.url, [each for each, job in found.items() if job["state"] == "succeeded"]
    )
    states = dict(Counter(job["state"] for job in found.values()))
    attempts = sorted(Counter(job["attempts"] for job in found.values()).items())
    print(f"  jobs of {jobs.model}: {states}, {jobs.tries} submits, attempts {attempts}")
    for job in failed:
        print(f"    {job['id']}: {job['error']}")
    return {number: results[each] for number, each in ids.items() if each in results}


def check_digits(load: Load, results: Mapping[int, dict[str, Any]]) -> None:
    """Each answer is what the version that it names gives directly."""
    for number, document in results.items():
        outputs = {output["name"]: output["data"] for output in document["outputs"]}
        right = load.expected[document["model_version"]][number % len(load.images)]
        assert np.allclose(outputs["probabilities"], right, atol=TOLERANCE), (SEED, number)


def check_noting(results: Mapping[int, dict[str, Any]], notes: Path) -> int:
    """Each answer is its number's own, and each number was executed; how many executions."""
    for number, document in results.items():
        assert document["outputs"][0]["data"] == [10.0 * number], (SEED, number, document)
    done = executions(notes)
    assert set(results) <= set(done), f"seed {SEED}"
    return sum(done.values())


@pytest.mark.slow
@pytest.mark.timeout(DURATION_S + 900)
async def test_jobs_in_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with demo_system(tmp_path) as system:
        add_noting(MlflowClient(system.mlflow_uri), tmp_path)
        ready = "/v2/models/noting/ready"
        wait_until(lambda: system.get(ready)[0] == 200, 60, "noting is ready")
        load = load_of(system, tmp_path)
        jobs = {
            "digits": JobLoad(system.url, "digits", lambda n: digit(load, n), PAUSE_S["digits"]),
            "noting": JobLoad(system.url, "noting", numbers, PAUSE_S["noting"]),
        }
        running = [asyncio.create_task(each.run(JOB_CLIENTS)) for each in jobs.values()]
        running.append(asyncio.create_task(load.run(CALL_CLIENTS)))
        chaos = JobChaos(system, load, random.Random(SEED))
        try:
            await chaos.run(DURATION_S)
        finally:
            load.stopped = True
            for each in jobs.values():
                each.stopped = True
            await asyncio.gather(*running)
        with capsys.disabled():
            print(f"\nchaos with jobs: seed {SEED}, {DURATION_S:.0f} s, ", end="")
            print(f"{len(load.answers)} calls")
            for name, count in sorted(chaos.done.items()):
                print(f"  {name:20} {count:4} times")
            check_digits(load, await check_ends(system, jobs["digits"]))
            results = await check_ends(system, jobs["noting"])
            print(f"  {check_noting(results, tmp_path / 'notes')} executions of noting")

"""A store that lost all that it held: what is deployed comes back from the registry, by itself."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from penstock.deploy.local.system.system_file import read_system
from tests.e2e.folder import SWAP_TIMEOUT_S, answers_with, folder_system
from tests.e2e.system import LocalSystem
from tests.support.models import affine
from tests.support.waiting import wait_until


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    system = folder_system(tmp_path)
    affine(tmp_path / "models" / "m" / "1", 2.0)
    try:
        system.start()
        answers_with(system, "m", 2.0, SWAP_TIMEOUT_S)
        yield system
    finally:
        exit_code = system.stop(signal.SIGINT)
    assert exit_code == 0, system.output


def generation_of(system: LocalSystem) -> int:
    gateways = system.status()["gateways"]
    return int(gateways[0]["generation"]) if gateways else 0


def test_the_registry_fills_a_store_anew_and_jobs_are_gone(system: LocalSystem) -> None:
    before = generation_of(system)
    job = submitted(system)
    with Redis.from_url(read_system(system.data_dir).redis_url) as store:
        store.flushall()
    wait_until(
        lambda: generation_of(system) > before and serves(system),
        SWAP_TIMEOUT_S,
        "the version serves again, as the store says",
        0.2,
    )
    answers_with(system, "m", 2.0, SWAP_TIMEOUT_S)
    with pytest.raises(urllib.error.HTTPError) as gone:
        urllib.request.urlopen(f"{system.url}/v2/jobs/{job}", timeout=10)
    assert gone.value.code == 404
    assert submitted(system) != job


def submitted(system: LocalSystem) -> str:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
    body = json.dumps({"inputs": [tensor]}).encode()
    with urllib.request.urlopen(f"{system.url}/v2/models/m/jobs", body, timeout=10) as answer:
        return str(json.load(answer)["id"])


def serves(system: LocalSystem) -> bool:
    revisions = [each for model in system.status()["models"] for each in model["revisions"]]
    return [(each["phase"], each["replicas_ready"]) for each in revisions] == [("serving", 1)]

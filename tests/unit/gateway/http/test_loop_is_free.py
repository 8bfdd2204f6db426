"""Large bodies and answers do not hold the event loop: processor time of its thread in a turn."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import MutableMapping
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.http.app import GatewayApp
from gateway.http.settings import HttpSettings
from gateway.jobs.service import JobService
from gateway.jobs.settings import JobSettings
from shared.jobs.news import JobNews
from shared.jobs.store import JobStore
from shared.keys import Keys
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, app_of, interface, spec
from tests.unit.gateway.http.test_element_bounds import BODIES, JSON, ROW

STRETCH_S = 0.05
"""Longest turn of the loop: 20 ms are meant; the rest is for a busy machine. Reading any of the
bodies whole takes several times as long."""

PATHS = {
    "oip": "/v2/models/m/infer",
    "mlflow": "/v2/models/m/invocations",
    "kserve": "/v1/models/m:predict",
}


async def longest_turn(
    app: GatewayApp, path: str, headers: dict[bytes, bytes], body: bytes
) -> tuple[int, float, int]:
    """Status, longest turn of the loop in seconds of processor time, and a bystander's turns."""
    statuses: list[int] = []
    given = [{"type": "http.request", "body": body, "more_body": False}]
    longest_s, turns, done = 0.0, 0, asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        if given:
            return given.pop()
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": list(headers.items()), "client": None, "server": None,
        "extensions": {},
    }  # fmt: skip
    task = asyncio.create_task(app(scope, receive, send))
    while not task.done():
        before_s = time.thread_time()
        await asyncio.sleep(0)
        longest_s = max(longest_s, time.thread_time() - before_s)
        turns += 1
    done.set()
    await task
    return statuses[0], longest_s, turns


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("coding", ["plain", "gzip"])
async def test_reading_too_large_a_body(kind: str, coding: str) -> None:
    name, headers, body = BODIES[kind]
    if coding == "gzip":
        headers, body = {**headers, b"content-encoding": b"gzip"}, gzip.compress(body, 1)
    app = app_of(FakeInference({"m": FakeModel(ROW, lambda arrays: arrays)}))
    warm = await longest_turn(app, PATHS[name], JSON, b"{}")
    assert warm[0] == 400
    status, longest_s, turns = await longest_turn(app, PATHS[name], headers, body)
    assert status == 400
    assert longest_s < STRETCH_S
    assert turns > 3


async def test_a_job_with_too_large_a_body() -> None:
    url = "redis://127.0.0.1:1"  # nothing is there, and nothing gets as far as that
    jobs = JobService(JobStore(url, Keys("t")), JobNews(url, Keys("t")), JobSettings(), None, ())
    service = FakeInference({"m": FakeModel(ROW, lambda arrays: arrays)})
    app = app_of(service, HttpSettings(), jobs=jobs)
    for kind in ("empty lists", "numbers", "tensors", "binary's JSON"):
        _, headers, body = BODIES[kind]
        status, longest_s, _ = await longest_turn(app, "/v2/models/m/jobs", headers, body)
        assert (kind, status, longest_s < STRETCH_S) == (kind, 400, True)


async def test_long_texts_are_read_beside_the_loop() -> None:
    model = interface([spec("t", "BYTES", -1)], [spec("n", "INT64", -1)])
    service = FakeInference({"m": FakeModel(model, lambda _: {"n": np.zeros(1, np.int64)})})
    text = ",[" * 10_000_000
    entry = {"name": "t", "shape": [1], "datatype": "BYTES", "data": [text]}
    body = orjson.dumps({"inputs": [entry]})
    status, longest_s, _ = await longest_turn(app_of(service), PATHS["oip"], JSON, body)
    assert (status, longest_s < STRETCH_S) == (200, True)


@pytest.mark.parametrize("coding", [b"identity", b"gzip"])
async def test_large_answers_are_written_beside_the_loop(coding: bytes) -> None:
    values = np.random.default_rng(3).standard_normal(2_000_000)
    model = interface([spec("x", "FP32", -1)], [spec("y", "FP64", -1)])
    service = FakeInference({"m": FakeModel(model, lambda _: {"y": values})})
    body = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}'
    headers = {**JSON, b"accept-encoding": coding}
    status, longest_s, _ = await longest_turn(app_of(service), PATHS["oip"], headers, body)
    assert (status, longest_s < STRETCH_S) == (200, True)

"""Jobs over HTTP: the real application and a real store; a stand-in plays the replica."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from redis import Redis

from gateway.http.settings import HttpSettings
from gateway.jobs.access import Blobs
from gateway.jobs.service import JobService
from gateway.jobs.settings import JobSettings
from shared.jobs.news import JobNews
from shared.jobs.payload import JobInput
from shared.jobs.store import JobStore
from shared.keys import Keys
from shared.tensors import Buffer, Tensor, array_from_tensor, tensor_from_array
from tests.contract.job_holder import Holder
from tests.contract.redis_server import Server
from tests.unit.gateway.http.fakes import FakeInference, app_of, client_of, x_input

KEYS = Keys("test")
SETTINGS = JobSettings(jobs_store_timeout_s=5, jobs_keepalive_s=0.2, jobs_tenant_header="X-Team")
INFER, JOBS = "/v2/models/double/infer", "/v2/models/double/jobs"
GOOD: dict[str, Any] = {"inputs": [x_input()]}
DOUBLED = [2.0, 4.0, 6.0, 9.0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder), appendfsync="always")
        running.start()
        yield running
        running.kill()


class MemoryBlobs:
    """Blobs in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def put(self, job_id: str, data: Buffer) -> str:
        name = f"{job_id}-{len(self.kept)}"
        self.kept[name] = bytes(data)
        return name

    def get(self, name: str) -> bytes:
        return self.kept[name]

    def delete(self, names: list[str]) -> list[str]:
        for name in names:
            self.kept.pop(name, None)
        return names


def double(job_input: JobInput) -> tuple[Tensor, ...]:
    (x,) = job_input.request.inputs
    return (tensor_from_array("y", array_from_tensor(x) * 2),)


class Bench:
    """A gateway's application, its store, and a holder."""

    def __init__(self, url: str, settings: JobSettings, blobs: Blobs | None) -> None:
        self.inference = FakeInference()
        self.store = JobStore(url, KEYS)
        self.news = JobNews(url, KEYS)
        self.jobs = JobService(self.store, self.news, settings, blobs, webhook_networks=())
        http = HttpSettings(max_body_bytes=4_000_000)
        self.client = client_of(app_of(self.inference, http, jobs=self.jobs))
        self.holder = Holder(self.store, "double", "2-revision", double)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.client.request(method, path, **options)

    async def submit(self, document: Any = GOOD, **options: Any) -> httpx.Response:
        answer = await self.ask("POST", JOBS, json=document, **options)
        assert answer.status_code in (200, 202), answer.text
        return answer

    async def job(self, path: str) -> dict[str, Any]:
        answer = await self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document


@asynccontextmanager
async def bench_at(
    url: str, settings: JobSettings = SETTINGS, blobs: Blobs | None = None
) -> AsyncIterator[Bench]:
    bench = Bench(url, settings, blobs)
    news = asyncio.create_task(bench.news.run())
    try:
        async with bench.client:
            yield bench
    finally:
        news.cancel()
        with suppress(asyncio.CancelledError):
            await news
        await bench.store.close()


@pytest.fixture
async def bench(server: Server) -> AsyncIterator[Bench]:
    with Redis.from_url(server.url) as redis:
        redis.flushall()
    async with bench_at(server.url) as made:
        yield made


async def test_submit_look_and_fetch(bench: Bench) -> None:
    submitted = await bench.submit({**GOOD, "id": "seven"})
    assert submitted.status_code == 202
    assert submitted.headers["retry-after"] == "1"
    path = submitted.headers["location"]
    document = submitted.json()
    assert path == f"/v2/jobs/{document['id']}"
    assert await bench.job(path) == document
    assert (document["state"], document["place"]) == ("queued", 0)
    assert (document["model"], document["version"], document["pinned"]) == ("double", "2", False)

    early = await bench.ask("GET", f"{path}/result")
    assert (early.status_code, list(early.json())) == (409, ["error"])

    await bench.holder.finish(await bench.holder.lease())
    done = await bench.job(path)
    assert (done["state"], done["attempts"], done["place"]) == ("succeeded", 1, None)
    assert done["finished_at"] < done["result_expires_at"]
    result = await bench.ask("GET", f"{path}/result")
    infer = await bench.ask("POST", INFER, json={**GOOD, "id": "seven"})
    assert result.json() == infer.json()
    assert result.headers["content-type"] == infer.headers["content-type"]
    assert result.headers["server-timing"].startswith("queue;dur=1.000, infer;dur=2.000")
    assert result.headers["x-penstock-attempts"] == "1"


async def test_the_result_in_binary(bench: Bench) -> None:
    raw = np.array([[1, 2, 3, 4.5]], "<f4").tobytes()
    entry = x_input(parameters={"binary_data_size": 16})
    del entry["data"]
    text = orjson.dumps({"inputs": [entry]})
    headers = {"inference-header-content-length": str(len(text))}
    submitted = await bench.ask("POST", JOBS, content=text + raw, headers=headers)
    await bench.holder.finish(await bench.holder.lease())
    path = submitted.headers["location"]
    accept = {"accept": "application/octet-stream"}
    result = await bench.ask("GET", f"{path}/result", headers=accept)
    assert result.headers["content-type"] == "application/octet-stream"
    length = int(result.headers["inference-header-content-length"])
    assert result.content[length:] == np.array([DOUBLED], "<f4").tobytes()

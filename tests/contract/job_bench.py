"""The gateway's application behind a real HTTP server, a real job store, and a stand-in replica."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import orjson

from penstock.gateway.http.server.connection import DrainState
from penstock.gateway.http.server.direct import DirectConnection, ShortWay
from penstock.gateway.http.server.server import GracefulServer
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.jobs.access import Blobs
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.payload import JobInput
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from penstock.shared.wire.tensors import Buffer, Tensor, array_from_tensor, tensor_from_array
from tests.contract.job_holder import Holder
from tests.unit.gateway.http.fakes import FakeInference, app_of, x_input

KEYS = Keys("test")
SETTINGS = JobSettings(jobs_store_timeout_s=5, jobs_keepalive_s=0.2, jobs_tenant_header="X-Team")
INFER, JOBS = "/v2/models/double/infer", "/v2/models/double/jobs"
GOOD: dict[str, Any] = {"inputs": [x_input()]}
DOUBLED = [2.0, 4.0, 6.0, 9.0]


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
    """A gateway's application behind a real HTTP server, its store, and a holder."""

    def __init__(self, url: str, settings: JobSettings, blobs: Blobs | None) -> None:
        self.inference = FakeInference()
        self.store = JobStore(url, KEYS)
        self.news = JobNews(url, KEYS)
        self.jobs = JobService(self.store, self.news, settings, blobs, webhook_networks=())
        self.app = app_of(self.inference, HttpSettings(max_body_bytes=4_000_000), jobs=self.jobs)
        self.server = GracefulServer(
            self.app,
            DrainState(0.1, 5.0),
            partial(DirectConnection, way=ShortWay(self.app.infer, self.app.scoring)),
        )
        self.listener = socket.create_server(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.client = httpx.AsyncClient(base_url=address, timeout=30)
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
    tasks = [
        asyncio.create_task(bench.news.run()),
        asyncio.create_task(bench.server.serve([bench.listener])),
    ]
    try:
        async with bench.client:
            yield bench
    finally:
        bench.jobs.begin_drain()
        bench.server.should_exit = bench.server.force_exit = True
        await tasks[1]
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bench.store.close()


@dataclass
class Event:
    """A server-sent event."""

    kind: str
    id: str
    data: Any


async def events_of(bench: Bench, path: str, after: str = "") -> AsyncIterator[Event]:
    """Events of a job as they come."""
    headers = {"last-event-id": after} if after else {}
    async with bench.client.stream("GET", f"{path}/events", headers=headers) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                fields[name] = value
            elif "event" in fields:
                yield Event(fields["event"], fields.get("id", ""), orjson.loads(fields["data"]))
                fields = {}


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    """Events until the stream ends."""
    return [event async for event in events]

"""Jobs over HTTP whose results are blobs: storage that is away or hangs, and too many at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.jobs import calls
from penstock.shared.jobs.payload import RESULT_TYPE, JobResult, pack_result, unpack_input
from penstock.shared.jobs.record import Content
from penstock.shared.wire.messages import Final
from tests.contract.job_bench import (
    DOUBLED,
    GOOD,
    INFER,
    SETTINGS,
    Bench,
    MemoryBlobs,
    bench_at,
    double,
)
from tests.contract.redis_server import Server

PREFER = {"prefer": "respond-async, wait=30"}
LARGE: dict[str, Any] = {
    "inputs": [
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a" * 300_000]},
        {"name": "n", "datatype": "INT64", "shape": [1], "data": [1]},
    ]
}


class MoodyBlobs(MemoryBlobs):
    """Reads may fail, or wait."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.reading = threading.Event()
        self.may_read = threading.Event()
        self.may_read.set()

    def get(self, name: str) -> bytes:
        if self.away:
            raise StateStoreError("no such bucket")
        self.reading.set()
        self.may_read.wait()
        return super().get(name)


async def finish_by_blob(bench: Bench, blobs: MemoryBlobs) -> None:
    """Execute the next job; its result is a blob."""
    leased = await bench.holder.lease()
    found = leased.record
    assert leased.body is not None
    job_input = unpack_input(leased.body)
    result = pack_result(JobResult(job_input.client_id, Final(0, double(job_input))))
    content = Content(RESULT_TYPE, len(result), blobs.put(found.id, result))
    await bench.store.run(calls.commit(found.id, found.token, content, b""))


async def test_an_accepted_job_is_told_whatever_its_result(job_server: Server) -> None:
    blobs = MoodyBlobs()
    async with bench_at(job_server.url, blobs=blobs) as bench:
        asking = asyncio.create_task(bench.ask("POST", INFER, json=GOOD, headers=PREFER))
        blobs.away = True
        await finish_by_blob(bench, blobs)
        answer = await asking
        assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")
        assert answer.headers["preference-applied"] == "respond-async"
        blobs.away = False
        result = await bench.ask("GET", f"{answer.headers['location']}/result")
        assert result.json()["outputs"][0]["data"] == DOUBLED


async def test_a_job_that_fails_is_named(bench: Bench) -> None:
    asking = asyncio.create_task(bench.ask("POST", INFER, json=GOOD, headers=PREFER))
    await bench.holder.fail(await bench.holder.lease(), "model_error", "it broke")
    answer = await asking
    assert (answer.status_code, answer.json()) == (500, {"error": "it broke"})
    assert answer.headers["preference-applied"] == "respond-async"
    assert (await bench.job(answer.headers["location"]))["state"] == "failed"


# Bounds -------------------------------------------------------------------------------------------


async def test_reads_that_hang_hold_up_nobody_else(job_server: Server) -> None:
    settings = SETTINGS.model_copy(update={"jobs_blob_timeout_s": 0.5})
    blobs = MoodyBlobs()
    async with bench_at(job_server.url, settings, blobs) as bench:
        path = (await bench.submit()).headers["location"]
        await finish_by_blob(bench, blobs)
        blobs.may_read.clear()
        try:
            reads = [bench.ask("GET", f"{path}/result") for _ in range(12)]
            reading = asyncio.gather(*reads)
            await asyncio.sleep(0.1)
            large = await bench.ask("POST", "/v2/models/texts/jobs", json=LARGE, timeout=5)
            assert large.status_code == 202
            assert {answer.status_code for answer in await reading} == {503}
        finally:
            blobs.may_read.set()
        assert (await bench.ask("GET", f"{path}/result")).status_code == 200


async def test_bytes_of_results_under_way_are_bounded(job_server: Server) -> None:
    settings = SETTINGS.model_copy(update={"jobs_result_bytes_max": 1})
    blobs = MoodyBlobs()
    async with bench_at(job_server.url, settings, blobs) as bench:
        path = (await bench.submit()).headers["location"]
        await finish_by_blob(bench, blobs)
        result = f"{path}/result"
        assert (await bench.ask("GET", result)).status_code == 200  # one, whatever its size
        blobs.may_read.clear()
        try:
            blobs.reading.clear()
            first = asyncio.create_task(bench.ask("GET", result))
            await asyncio.to_thread(blobs.reading.wait)
            refused = await bench.ask("GET", result)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        finally:
            blobs.may_read.set()
        assert (await first).status_code == 200
        blobs.away = True
        assert (await bench.ask("GET", result)).status_code == 503
        blobs.away = False
        assert (await bench.ask("GET", result)).status_code == 200

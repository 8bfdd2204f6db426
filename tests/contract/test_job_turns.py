"""Jobs with large inputs and results do not hold the event loop of their gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from redis import Redis

from penstock.gateway.http.app import GatewayApp
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs import calls
from penstock.shared.jobs.blobs import BlobStore
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.payload import RESULT_TYPE, JobResult, pack_result, unpack_input
from penstock.shared.jobs.record import Content, JobState
from penstock.shared.jobs.store import JobStore
from penstock.shared.wire.messages import Final
from penstock.shared.wire.tensors import (
    Tensor,
    array_from_tensor,
    encode_bytes_elements,
    tensor_from_array,
)
from tests.contract.job_bench import KEYS
from tests.contract.job_holder import Holder
from tests.contract.redis_server import Server
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, app_of, echo, interface, spec
from tests.unit.gateway.http.turns import STRETCH_S, longest_turn

COUNT = 12_000_000
FLOATS = np.random.default_rng(3).standard_normal(COUNT).astype(np.float32)
WORDS = [f"word {number % 9973}" for number in range(500_000)]
OPEN = interface([spec("x", "FP32", -1)], [spec("y", "FP32", -1)])
PATH = "/v2/models/m/jobs"
JSON = {b"content-type": b"application/json"}


class Jobs:
    """A gateway's application with a job store and a folder of blobs."""

    def __init__(self, url: str, folder: Path) -> None:
        self.store, self.blobs = JobStore(url, KEYS), BlobStore(str(folder), "t")
        service = FakeInference({"m": FakeModel(OPEN, echo)})
        news, settings = JobNews(url, KEYS), JobSettings()
        jobs = JobService(self.store, news, settings, self.blobs, ())
        self.app: GatewayApp = app_of(service, HttpSettings(), jobs=jobs)
        self.holder = Holder(self.store, "m", "2-revision", lambda _: ())

    async def newest(self) -> str:
        (found,) = await self.store.run(calls.jobs("m", None, "", 1))
        return found.id


@pytest.fixture
async def jobs(job_server: Server, tmp_path: Path) -> AsyncIterator[Jobs]:
    with Redis.from_url(job_server.url) as redis:
        redis.flushall()
    made = Jobs(job_server.url, tmp_path)
    yield made
    await made.store.close()


def binary_numbers() -> tuple[dict[bytes, bytes], bytes]:
    parameters = {"binary_data_size": FLOATS.nbytes}
    entry = {"name": "x", "datatype": "FP32", "shape": [COUNT], "parameters": parameters}
    text = orjson.dumps({"inputs": [entry]})
    return {b"inference-header-content-length": b"%d" % len(text)}, text + FLOATS.tobytes()


def json_numbers() -> tuple[dict[bytes, bytes], bytes]:
    data = FLOATS[:2_000_000]
    entry = {"name": "x", "datatype": "FP32", "shape": [len(data)], "data": data}
    return JSON, orjson.dumps({"inputs": [entry]}, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize("key", [b"", b"one"], ids=["plain", "with a key"])
@pytest.mark.parametrize("kind", ["binary", "json"])
async def test_a_large_input(jobs: Jobs, kind: str, key: bytes) -> None:
    headers, body = binary_numbers() if kind == "binary" else json_numbers()
    if key:
        headers = {**headers, b"idempotency-key": key + kind.encode()}
    await longest_turn(jobs.app, PATH, JSON, b"{}")
    status, longest_s = await longest_turn(jobs.app, PATH, headers, body)
    assert (status, longest_s < STRETCH_S) == (202, True), longest_s
    found = await jobs.store.run(calls.get(await jobs.newest()))
    assert found is not None
    payload = found.record.payload
    assert payload is not None
    kept = unpack_input(jobs.blobs.get(payload.blob)).request
    (x,) = kept.inputs
    array = array_from_tensor(x)
    assert np.array_equal(array, FLOATS[: len(array)])
    assert len(array) == (COUNT if kind == "binary" else 2_000_000)


RESULTS: dict[str, tuple[Tensor, dict[bytes, bytes]]] = {
    "binary numbers": (
        tensor_from_array("y", FLOATS),
        {b"accept": b"application/octet-stream"},
    ),
    "numbers": (tensor_from_array("y", FLOATS[:2_000_000]), {}),
    "texts": (Tensor("y", "BYTES", (len(WORDS),), encode_bytes_elements(WORDS)), {}),
}


@pytest.mark.parametrize("kind", RESULTS)
async def test_a_large_result(jobs: Jobs, kind: str) -> None:
    output, headers = RESULTS[kind]
    small = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}'
    status, _ = await longest_turn(jobs.app, PATH, JSON, small)
    assert status == 202
    job = (await jobs.holder.lease()).record
    body = pack_result(JobResult("", Final(0, (output,))))
    content = Content(RESULT_TYPE, len(body), jobs.blobs.put(job.id, body))
    state = await jobs.store.run(calls.commit(job.id, job.token, content, b""))
    assert state is JobState.SUCCEEDED
    path = f"/v2/jobs/{job.id}/result"
    status, longest_s = await longest_turn(jobs.app, path, headers, b"", "GET")
    assert (status, longest_s < STRETCH_S) == (200, True), longest_s

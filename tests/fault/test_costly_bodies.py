"""Bodies that are large, or stand for much: what they take of a real gateway, and of its replicas.

While each of them is sent, a bystander's calls go on; afterwards every replica is still called. The
peak of memory over the gateway and the processes that read for it is held against a bound by what
the body and its answer carry, and the memory is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import gzip
import io
import resource
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from onnx import TensorProto, helper

from penstock.gateway.memory.trim import TRIM_AFTER_S
from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.jobs import calls
from penstock.shared.jobs.blobs import BlobStore
from penstock.shared.jobs.payload import RESULT_TYPE, JobResult, pack_result, unpack_input
from penstock.shared.jobs.record import Content
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from penstock.shared.wire.messages import Final
from penstock.shared.wire.tensors import encode_bytes_elements
from tests.contract.job_holder import Holder
from tests.contract.redis_server import Server
from tests.fault.connections import Answer
from tests.fault.gateway_process import GatewayProcess, gateway_process
from tests.support import models

MIB = 1024 * 1024
BESIDE_BYTES = 16 * MIB
"""What a body may take whatever its size."""

KEPT_BYTES_MAX = 48 * MIB
"""What may stay when all are over: allocators keep some, caches fill."""

READER_BYTES = 40 * MIB
"""What a process that reads bodies takes before it does."""

JSON = "application/json"
COUNT = 1_500_000
CELLS = 250_000
FLOATS = np.random.default_rng(3).standard_normal(COUNT).astype(np.float32)
WORDS = [f"the word {number % 99991}" for number in range(CELLS)]
TABLE = [[float(value), word] for value, word in zip(FLOATS[:CELLS], WORDS, strict=False)]
MANY = 4_000_000
KEYS = Keys("test")
READY = 5
"""Replicas, one of each model."""


@dataclass(frozen=True)
class Body:
    """One request.

    Attributes:
        allowed_bytes: beside three times its size: of what it carries and the model takes.
    """

    path: str
    content: bytes
    status: int
    allowed_bytes: int = 0
    content_type: str = JSON
    json_bytes: int = 0


def dumped(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def infer_body(name: str, datatype: str, data: Any, shape: list[int]) -> bytes:
    return dumped({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]})


def binary(name: str, datatype: str, raw: bytes, shape: list[int], wish: Any = None) -> Body:
    entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    entry["parameters"] = {"binary_data_size": len(raw)}
    text = dumped({"inputs": [entry], "parameters": {"binary_data_output": wish is None}})
    model = "texts" if datatype == "BYTES" else "numbers"
    path = f"/v2/models/{model}/infer"
    return Body(path, text + raw, 200, 64 * shape[0], json_bytes=len(text))


def in_csv() -> bytes:
    target = io.StringIO()
    csv.writer(target).writerows([("a", "t"), *TABLE])
    return target.getvalue().encode()


def good_bodies() -> dict[str, Body]:
    number_bytes, cell_bytes = 16 * COUNT, 64 * 2 * CELLS
    numbers, texts, table = "/v2/models/numbers", "/v2/models/texts", "/v2/models/table"
    records = [{"a": number, "t": word} for number, word in TABLE]
    split = {"columns": ["a", "t"], "data": TABLE}
    raw_texts = encode_bytes_elements(WORDS)
    return {
        "numbers": Body(
            f"{numbers}/infer", infer_body("x", "FP32", FLOATS, [COUNT]), 200, number_bytes
        ),
        "texts": Body(f"{texts}/infer", infer_body("x", "BYTES", WORDS, [CELLS]), 200, cell_bytes),
        "a long text": Body(f"{texts}/infer", infer_body("x", "BYTES", [",[" * MANY], [1]), 200),
        "binary numbers": binary("x", "FP32", FLOATS.tobytes(), [COUNT]),
        "binary numbers, answered in JSON": binary("x", "FP32", FLOATS.tobytes(), [COUNT], "JSON"),
        "binary texts": binary("x", "BYTES", raw_texts, [CELLS]),
        "binary texts, answered in JSON": binary("x", "BYTES", raw_texts, [CELLS], "JSON"),
        "CSV": Body(f"{table}/invocations", in_csv(), 200, cell_bytes, "text/csv"),
        "split": Body(f"{table}/invocations", dumped({"dataframe_split": split}), 200, cell_bytes),
        "records": Body(
            f"{table}/invocations", dumped({"dataframe_records": records}), 200, cell_bytes
        ),
        "mlflow's inputs": Body(
            f"{numbers}/invocations", dumped({"inputs": FLOATS}), 200, number_bytes
        ),
        "instances": Body(
            "/v1/models/numbers:predict", dumped({"instances": FLOATS}), 200, number_bytes
        ),
    }


def bad_bodies() -> dict[str, Body]:
    """For a model that takes FP32[1, 64]."""
    row, scored = "/v2/models/row/infer", "/v2/models/row/invocations"
    front = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,64],"data":['

    def tensor(data: bytes) -> Body:
        return Body(row, front + data * MANY + data[:-1] + b"]}]}", 400)

    split = b'{"dataframe_split":{"data":['
    return {
        "empty lists": tensor(b"[],"),
        "numbers too many": tensor(b"1,"),
        "nulls": tensor(b"null,"),
        "tensors": Body(row, b'{"inputs":[' + b'{"name":"x"},' * (MANY // 4) + b"{}]}", 400),
        "parameters": Body(row, b'{"parameters":{' + b'"a":1,' * MANY + b'"b":1}}', 400),
        "an id": Body(row, b'{"id":"' + b"i" * (4 * MANY) + b'","inputs":[]}', 400),
        "rows": Body(scored, split + b"[]," * MANY + b"[]]}}", 400),
        "lines of CSV": Body(scored, b"x\n" + b"1\n" * MANY, 400, content_type="text/csv"),
        "instances too many": Body(
            "/v1/models/row:predict", b'{"instances":[' + b"[]," * MANY + b"[]]}", 400
        ),
    }


def identity(folder: Path, **inputs: tuple[int, list[int | str]]) -> Path:
    """Every input is an output, `x` as `y-x`."""
    nodes = [helper.make_node("Identity", [name], [f"y-{name}"]) for name in inputs]
    given = [models.value(name, kind, shape) for name, (kind, shape) in inputs.items()]
    outputs = [models.value(f"y-{name}", kind, shape) for name, (kind, shape) in inputs.items()]
    models.save_graph(folder, nodes, given, outputs)
    return folder


def held_by(gateway_pid: int) -> dict[int, int]:
    """Bytes in memory of a gateway and of the processes that read for it, by their ids.

    A process that has forked and not begun its own program yet has the gateway's pages, and its
    command line: those bytes are counted once.
    """
    pids = {gateway_pid}
    for task in Path(f"/proc/{gateway_pid}/task").iterdir():
        with contextlib.suppress(OSError):
            pids |= {int(each) for each in (task / "children").read_text().split()}
    own = _command_line(gateway_pid)
    readers = {each for each in pids if each != gateway_pid and _command_line(each) != own}
    return {each: _resident_bytes(each) for each in {gateway_pid} | readers}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def beyond(held: dict[int, int], first: dict[int, int]) -> int:
    """How much more; of a process that was started since, what it takes for itself is none."""
    return sum(now - first.get(pid, READER_BYTES) for pid, now in held.items())


class Peak:
    """The most that is held beyond what is held at first, looked at again and again."""

    def __init__(self, gateway_pid: int) -> None:
        self._pid = gateway_pid
        self._first = held_by(gateway_pid)
        self._most_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._ended.wait(0.004):
            self._most_bytes = max(self._most_bytes, beyond(held_by(self._pid), self._first))

    def end(self) -> int:
        """That, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most_bytes


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def request_of(body: Body, coding: str) -> bytes:
    content = gzip.compress(body.content, 1) if coding == "gzip" else body.content
    head = f"POST {body.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {body.content_type}\r\n"
    head += f"content-length: {len(content)}\r\n"
    if body.json_bytes:
        head += f"inference-header-content-length: {body.json_bytes}\r\n"
        head = head.replace(JSON, "application/octet-stream")
    if coding == "gzip":
        head += "content-encoding: gzip\r\naccept-encoding: gzip\r\n"
    return head.encode() + b"\r\n" + content


async def joined(gateway: GatewayProcess, tmp_path: Path) -> None:
    real, text = TensorProto.FLOAT, TensorProto.STRING
    folders = {
        "numbers": identity(tmp_path / "numbers", x=(real, ["n"])),
        "texts": identity(tmp_path / "texts", x=(text, ["n"])),
        "table": identity(tmp_path / "table", a=(TensorProto.DOUBLE, ["n"]), t=(text, ["n"])),
        "row": identity(tmp_path / "row", x=(real, [1, 64])),
    }
    for name, folder in folders.items():
        gateway.spawn(folder, model=name, settings=ReplicaSettings(batching="off"))
    assert len(folders) + 1 == READY
    await gateway.joined(models.affine(tmp_path / "m", 10.0, width=1))


async def bystanding(gateway: GatewayProcess, stop: asyncio.Event) -> list[int]:
    """Statuses of small calls, one after the other."""
    connection = await gateway.connect()
    statuses = []
    small = infer_body("x", "FP32", [1.5], [1, 1])
    request = request_of(Body("/v2/models/m/infer", small, 200), "plain")
    while not stop.is_set():
        connection.writer.write(request)
        statuses.append((await connection.answer()).status)
        await asyncio.sleep(0.01)
    connection.leave()
    return statuses


async def asked(gateway: GatewayProcess, request: bytes) -> tuple[Answer, int]:
    """The answer, and the most that the gateway held meanwhile."""
    connection = await gateway.connect()
    peak = Peak(gateway.process.pid)
    try:
        connection.writer.write(request)
        answer = await connection.answer()
    finally:
        peak_bytes = peak.end()
    connection.leave()
    return answer, peak_bytes


async def tried(gateway: GatewayProcess, body: Body, coding: str) -> None:
    answer, peak_bytes = await asked(gateway, request_of(body, coding))
    assert answer.status == body.status, answer.body[:300]
    answer_bytes = 0
    if body.status == 200:
        content = gzip.decompress(answer.body) if answer.body[:2] == b"\x1f\x8b" else answer.body
        answer_bytes = len(content)
    carried = 3 * (len(body.content) + answer_bytes) + body.allowed_bytes
    most_bytes = carried + BESIDE_BYTES
    print(f"{len(body.content):12,} {answer_bytes:12,} {peak_bytes:12,} of {most_bytes:12,}")
    assert peak_bytes <= most_bytes


async def test_costly_bodies(tmp_path: Path) -> None:
    bodies = {**good_bodies(), **bad_bodies()}
    async with gateway_process() as gateway:
        await joined(gateway, tmp_path)
        stop = asyncio.Event()
        bystander = asyncio.create_task(bystanding(gateway, stop))
        await tried(gateway, bodies["numbers"], "plain")  # starts what reads bodies
        first = held_by(gateway.process.pid)
        for name, body in bodies.items():
            for coding in ("plain", "gzip"):
                print(f"{name:32} {coding:6}", end=" ")
                await tried(gateway, body, coding)
        stop.set()
        assert set(await bystander) == {200}
        await asyncio.sleep(2 * TRIM_AFTER_S)
        assert beyond(held_by(gateway.process.pid), first) <= KEPT_BYTES_MAX
        await gateway.metric_is("penstock_gateway_ready_replicas", READY)


async def submitted(gateway: GatewayProcess, body: Body, coding: str) -> str:
    """The id of the job that the body becomes."""
    request = request_of(replace(body, path=body.path.replace("/infer", "/jobs")), coding)
    answer, peak_bytes = await asked(gateway, request)
    assert answer.status == 202, answer.body[:300]
    most_bytes = 3 * len(body.content) + body.allowed_bytes + BESIDE_BYTES
    print(f"submit {len(body.content):12,} {peak_bytes:12,} of {most_bytes:12,}")
    assert peak_bytes <= most_bytes
    return str(orjson.loads(answer.body)["id"])


async def finish(store: JobStore, blobs: BlobStore, job_id: str) -> None:
    """The job's input becomes its result."""
    found = await store.run(calls.get(job_id))
    assert found is not None
    holder = Holder(store, found.record.job.model, found.record.job.revision, lambda _: ())
    job = (await holder.lease()).record
    assert job.payload is not None
    job_input = unpack_input(blobs.get(job.payload.blob))
    (x,) = job_input.request.inputs
    output = replace(x, name="y-x")
    result = pack_result(JobResult(job_input.client_id, Final(0, (output,))))
    content = Content(RESULT_TYPE, len(result), blobs.put(job.id, result))
    await store.run(calls.commit(job.id, job.token, content, b""))


async def test_costly_jobs(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    server, folder = Server(tmp_path / "store"), tmp_path / "blobs"
    server.start()
    store, blobs = JobStore(server.url, KEYS), BlobStore(str(folder), KEYS.namespace)
    settings = {"redis_url": server.url, "blobs_url": folder, "namespace": KEYS.namespace}
    try:
        async with gateway_process(**settings) as gateway:
            await joined(gateway, tmp_path)
            stop = asyncio.Event()
            bystander = asyncio.create_task(bystanding(gateway, stop))
            for name in ("numbers", "binary numbers"):
                for coding in ("plain", "gzip"):
                    job_id = await submitted(gateway, good_bodies()[name], coding)
                    await finish(store, blobs, job_id)
                    head = f"GET /v2/jobs/{job_id}/result HTTP/1.1\r\nhost: localhost\r\n"
                    request = head.encode() + b"accept: application/octet-stream\r\n\r\n"
                    answer, peak_bytes = await asked(gateway, request)
                    assert answer.status == 200
                    assert answer.body.endswith(FLOATS.tobytes())
                    print(f"result {len(answer.body):12,} {peak_bytes:12,}")
                    assert peak_bytes <= 3 * len(answer.body) + BESIDE_BYTES
            stop.set()
            assert set(await bystander) == {200}
    finally:
        await store.close()
        server.kill()

"""Large bodies and answers do not hold the event loop: processor time of the process in a turn."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.jobs.settings import JobSettings
from penstock.shared.jobs.news import JobNews
from penstock.shared.jobs.store import JobStore
from penstock.shared.store.keys import Keys
from penstock.shared.wire.tensors import Tensor, encode_bytes_elements, tensor_from_array
from tests.unit.gateway.http.bodies.test_element_bounds import BODIES, CSV, JSON, ROW
from tests.unit.gateway.http.fakes import FakeInference, FakeModel, app_of, echo, interface, spec
from tests.unit.gateway.http.turns import STRETCH_S, longest_turn

pytestmark = pytest.mark.costly

PATHS = {
    "oip": "/v2/models/m/infer",
    "mlflow": "/v2/models/m/invocations",
    "kserve": "/v1/models/m:predict",
}


class Prepared(FakeInference):
    """Answers with what it is given, and does not look at what came."""

    def __init__(self, model: FakeModel, outputs: tuple[Tensor, ...] = ()) -> None:
        super().__init__({"m": model})
        self.outputs = outputs

    def _run(self, call: InferenceCall) -> InferenceAnswer:
        return InferenceAnswer(call.model, "1", self.outputs, 0.001, 0.002, 1, 1)


def coded(
    headers: dict[bytes, bytes], body: bytes, coding: str
) -> tuple[dict[bytes, bytes], bytes]:
    if coding == "gzip":
        return {**headers, b"content-encoding": b"gzip"}, gzip.compress(body, 1)
    return headers, body


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("coding", ["plain", "gzip"])
async def test_a_body_that_holds_too_much(kind: str, coding: str) -> None:
    name, headers, body = BODIES[kind]
    app = app_of(FakeInference({"m": FakeModel(ROW, lambda arrays: arrays)}))
    warm = await longest_turn(app, PATHS[name], JSON, b"{}")
    assert warm[0] == 400
    status, longest_s = await longest_turn(app, PATHS[name], *coded(headers, body, coding))
    assert (status, longest_s < STRETCH_S) == (400, True), longest_s


COUNT = 2_000_000
GENERATOR = np.random.default_rng(3)
FLOATS = GENERATOR.standard_normal(COUNT).astype(np.float32)
WORDS = [f"word {number % 9973}" for number in range(500_000)]
OPEN = interface([spec("x", "FP32", -1)], [spec("y", "FP32", -1)])
MATRIX = interface([spec("x", "FP32", -1, -1)], [spec("y", "FP32", -1)])
TEXT = interface([spec("t", "BYTES", -1)], [spec("y", "FP32", -1)])
TABLE = interface([spec("a", "FP64", -1), spec("t", "BYTES", -1)], [spec("y", "FP32", -1)])


def dumped(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def infer_body(name: str, datatype: str, shape: list[int], data: Any) -> bytes:
    return dumped({"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]})


def binary_texts() -> tuple[dict[bytes, bytes], bytes]:
    raw = encode_bytes_elements(WORDS)
    entry = {"name": "t", "datatype": "BYTES", "shape": [len(WORDS)]}
    text = dumped({"inputs": [{**entry, "parameters": {"binary_data_size": len(raw)}}]})
    return {b"inference-header-content-length": b"%d" % len(text)}, text + raw


def table_in_csv() -> bytes:
    target = io.StringIO()
    csv.writer(target).writerows([("a", "t"), *zip(FLOATS[:300_000], WORDS, strict=False)])
    return target.getvalue().encode()


ROWS = [[float(value), word] for value, word in zip(FLOATS[:300_000], WORDS, strict=False)]
GOOD_BODIES: dict[str, tuple[str, Any, tuple[dict[bytes, bytes], bytes]]] = {
    "numbers": ("oip", OPEN, (JSON, infer_body("x", "FP32", [COUNT], FLOATS))),
    "rows of numbers": (
        "oip",
        MATRIX,
        (JSON, infer_body("x", "FP32", [1000, 2000], FLOATS.reshape(1000, 2000))),
    ),
    "texts": ("oip", TEXT, (JSON, infer_body("t", "BYTES", [len(WORDS)], WORDS))),
    "a long text": ("oip", TEXT, (JSON, infer_body("t", "BYTES", [1], [",[" * 10_000_000]))),
    "binary texts": ("oip", TEXT, binary_texts()),
    "a table in CSV": ("mlflow", TABLE, (CSV, table_in_csv())),
    "a split table": (
        "mlflow",
        TABLE,
        (JSON, dumped({"dataframe_split": {"columns": ["a", "t"], "data": ROWS}})),
    ),
    "records": (
        "mlflow",
        TABLE,
        (JSON, dumped({"dataframe_records": [{"a": a, "t": t} for a, t in ROWS]})),
    ),
    "mlflow's inputs": ("mlflow", OPEN, (JSON, dumped({"inputs": FLOATS}))),
    "instances": ("kserve", MATRIX, (JSON, dumped({"instances": FLOATS.reshape(-1, 4)}))),
}


@pytest.mark.parametrize("kind", GOOD_BODIES)
@pytest.mark.parametrize("coding", ["plain", "gzip"])
async def test_a_body_that_is_large_and_good(kind: str, coding: str) -> None:
    name, model, (headers, body) = GOOD_BODIES[kind]
    output = tensor_from_array("y", np.zeros(1, np.float32))
    service = Prepared(FakeModel(model, echo), (output,))
    app = app_of(service)
    await longest_turn(app, PATHS[name], JSON, b"{}")
    status, longest_s = await longest_turn(app, PATHS[name], *coded(headers, body, coding))
    assert (status, longest_s < STRETCH_S) == (200, True), longest_s
    (call,) = service.calls
    assert sum(tensor.nbytes for tensor in call.inputs) > 1_000_000


async def test_a_job_with_too_large_a_body() -> None:
    url = "redis://127.0.0.1:1"  # nothing is there, and nothing gets as far as that
    jobs = JobService(JobStore(url, Keys("t")), JobNews(url, Keys("t")), JobSettings(), None, ())
    service = FakeInference({"m": FakeModel(ROW, lambda arrays: arrays)})
    app = app_of(service, HttpSettings(), jobs=jobs)
    for kind in ("empty lists", "numbers", "tensors", "binary's JSON"):
        _, headers, body = BODIES[kind]
        status, longest_s = await longest_turn(app, "/v2/models/m/jobs", headers, body)
        assert (kind, status, longest_s < STRETCH_S) == (kind, 400, True), longest_s


def texts(name: str, elements: list[str], *shape: int) -> Tensor:
    return Tensor(name, "BYTES", shape, encode_bytes_elements(elements))


LARGE_ANSWERS: dict[str, tuple[str, tuple[Tensor, ...]]] = {
    "numbers": ("oip", (tensor_from_array("y", FLOATS),)),
    "numbers twice": (
        "oip",
        (tensor_from_array("y", FLOATS), tensor_from_array("z", FLOATS.astype(np.float64))),
    ),
    "texts": ("oip", (texts("y", WORDS, len(WORDS)),)),
    "a long text": ("oip", (texts("y", ['ä€"' * 4_000_000], 1),)),
    "raw numbers": ("raw", (tensor_from_array("y", np.tile(FLOATS, 8)),)),
    "mlflow's numbers": ("mlflow", (tensor_from_array("y", FLOATS.reshape(-1, 4)),)),
    "mlflow's texts": ("mlflow", (texts("y", WORDS, len(WORDS) // 2, 2),)),
    "kserve's numbers": ("kserve", (tensor_from_array("y", FLOATS.reshape(1, -1)),)),
    "kserve's records": (
        "kserve",
        (tensor_from_array("y", FLOATS[: len(WORDS)]), texts("z", WORDS, len(WORDS))),
    ),
}


@pytest.mark.parametrize("kind", LARGE_ANSWERS)
@pytest.mark.parametrize("coding", [b"identity", b"gzip"])
async def test_a_large_answer(kind: str, coding: bytes) -> None:
    name, outputs = LARGE_ANSWERS[kind]
    bodies = {
        "oip": infer_body("x", "FP32", [1], [1]),
        "mlflow": b'{"inputs":[1]}',
        "kserve": b'{"instances":[1]}',
    }
    bodies["raw"] = bodies["oip"][:-1] + b',"parameters":{"binary_data_output":true}}'
    specs = [spec(each.name, each.datatype, *[-1] * len(each.shape)) for each in outputs]
    model = FakeModel(interface([spec("x", "FP32", -1)], specs), echo)
    app = app_of(Prepared(replace(model), outputs))
    path = PATHS["oip" if name == "raw" else name]
    headers = {**JSON, b"accept-encoding": coding}
    await longest_turn(app, path, JSON, b"{}")
    status, longest_s = await longest_turn(app, path, headers, bodies[name])
    assert (status, longest_s < STRETCH_S) == (200, True), longest_s

"""The bad-input table, and the protocol's extensions, against real gateway processes.

The table's figures are printed (`pytest -s`): status, message, and how far the peak of the
gateways' memory rose while they dealt with it.
"""

from __future__ import annotations

import http.client
import json
import signal
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from tests.e2e.folder import folder_system
from tests.e2e.system import LocalSystem
from tests.support.models import affine
from tests.support.waiting import wait_until

MODEL = "scaled"
INFER = f"/v2/models/{MODEL}/infer"
WIDTH = 64
BIG_BODY_BYTES = 54_000_000
BIG_BODY_GROWTH_MIB_MAX = 4 * BIG_BODY_BYTES / 2**20
"""The body itself, twice while it grows, and something to spare."""

OTHER_GROWTH_MIB_MAX = 64.0
GIVEN_BACK_MIB = 64.0
"""What may still be there once the big body is done with; the allocator keeps some."""

Answer = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """One gateway, one worker, and one model: y = 2 x, of which x is FP32[-1,64]."""
    base = tmp_path_factory.mktemp("protocol")
    system = folder_system(base)
    affine(base / "models" / MODEL / "1", 2.0, width=WIDTH)
    try:
        system.start()
        wait_until(
            lambda: system.get(f"/v2/models/{MODEL}/ready")[0] == 200, 60, "the model serves"
        )
        yield system
    finally:
        system.stop(signal.SIGINT)


def send(system: LocalSystem, body: bytes, path: str = INFER, **headers: str) -> Answer:
    """POST a body, on a connection of its own."""
    address = urllib.parse.urlsplit(system.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("POST", path, body, {"content-type": "application/json", **named})
        response = connection.getresponse()
        document: dict[str, Any] = json.loads(response.read())
        return response.status, document
    finally:
        connection.close()


def request(**changes: Any) -> dict[str, Any]:
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
    return {"inputs": [{**entry, **changes}]}


def with_number(literal: str) -> bytes:
    return json.dumps(request()).replace("0.5", literal, 1).encode()


def big_body() -> bytes:
    """A tensor of 54 MB of digits, which is more than the model takes."""
    count = BIG_BODY_BYTES // 9
    numbers = b"0.123456," * (count - 1) + b"0.123456"
    head = json.dumps(request(shape=[1, count], data=[])).encode()
    return head.replace(b'"data": []', b'"data": [' + numbers + b"]")


@dataclass(frozen=True)
class BadInput:
    """A row of the table."""

    name: str
    body: bytes
    named: str
    status: int = 400


def bad_inputs() -> list[BadInput]:
    good = json.dumps(request()).encode()
    return [
        BadInput("wrong length", json.dumps(request(data=[0.5] * 63)).encode(), "expected 64 el"),
        BadInput("wrong shape", json.dumps(request(shape=[1, 63])).encode(), "shape [-1,64]"),
        BadInput("wrong name", json.dumps(request(name="img")).encode(), 'inputs ("x")'),
        BadInput("wrong datatype", json.dumps(request(datatype="FP64")).encode(), "datatype FP32"),
        BadInput("broken JSON", good[:-9], "expected JSON"),
        BadInput("not JSON", b"<xml/>", "expected JSON"),
        BadInput("empty body", b"", "empty body"),
        BadInput("NaN literal", with_number("NaN"), 'input "x": expected finite numbers'),
        BadInput("1e400", with_number("1e400"), "beyond the range of FP64 at data[0]"),
        BadInput("1e39", with_number("1e39"), "magnitude up to 3.40282e+38"),
        BadInput("text for a number", with_number('"0.5"'), 'got "0.5" at data[0]'),
        BadInput("bad UTF-8", good.replace(b'"x"', b'"\xff"'), "expected JSON"),
        BadInput("nesting 200,000 deep", b"[" * 200_000, "expected JSON"),
        BadInput("54 MB body", big_body(), "expected shape [-1,64], got [1,6000000]"),
        BadInput("70 MB body", b" " * 70_000_000, "expected at most 67108864 bytes", 413),
    ]


class Memory:
    """Resident memory of all gateway processes, from /proc."""

    def __init__(self, system: LocalSystem) -> None:
        self._folders = [
            Path("/proc") / str(pid)
            for pid in system.processes()
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"penstock gateway")
        ]
        assert len(self._folders) == 1

    def forget_peaks(self) -> None:
        for folder in self._folders:
            (folder / "clear_refs").write_text("5")

    def now_mib(self) -> float:
        return self._sum("VmRSS")

    def peak_mib(self) -> float:
        return self._sum("VmHWM")

    def _sum(self, field: str) -> float:
        total_kib = 0
        for folder in self._folders:
            lines = (folder / "status").read_text().splitlines()
            total_kib += next(int(line.split()[1]) for line in lines if line.startswith(field))
        return total_kib / 1024


def test_the_bad_input_table(system: LocalSystem) -> None:
    good = json.dumps(request()).encode()
    assert send(system, good)[0] == 200
    memory = Memory(system)
    print(f"\n| {'input':20} | status | peak | message |\n|---|---|---|---|")
    before_mib = memory.now_mib()
    for row in bad_inputs():
        memory.forget_peaks()
        at_mib = memory.now_mib()
        status, document = send(system, row.body)
        growth_mib = memory.peak_mib() - at_mib
        message = document["error"]
        print(f"| {row.name:20} | {status} | +{growth_mib:.0f} MiB | {message[:80]} |")
        assert status == row.status, row.name
        assert row.named in message, row.name
        assert len(message) < 500, row.name
        big = row.name == "54 MB body"
        limit_mib = BIG_BODY_GROWTH_MIB_MAX if big else OTHER_GROWTH_MIB_MAX
        assert growth_mib < limit_mib, row.name
        assert send(system, good)[0] == 200, f"not alive after: {row.name}"
    grown_mib = memory.now_mib() - before_mib
    print(f"memory after all of it: +{grown_mib:.0f} MiB")
    assert grown_mib < GIVEN_BACK_MIB


@pytest.fixture
def client(system: LocalSystem) -> Iterator[Any]:
    connection = triton.InferenceServerClient(system.url.removeprefix("http://"))
    yield connection
    connection.close()


def test_tritonclient_asks_beyond_inference(client: Any) -> None:
    config = client.get_model_config(MODEL)
    assert config["input"][0] == {
        "name": "x",
        "data_type": "TYPE_FP32",
        "dims": [WIDTH],
        "format": "FORMAT_NONE",
        "optional": False,
    }
    assert config["max_batch_size"] == 32
    assert client.get_model_repository_index() == [
        {"name": MODEL, "version": "1", "state": "READY", "reason": ""}
    ]


def test_statistics_know_the_batches(client: Any) -> None:
    array = np.arange(8 * WIDTH, dtype=np.float32).reshape(8, WIDTH)
    tensor = triton.InferInput("x", [8, WIDTH], "FP32")
    tensor.set_data_from_numpy(array)
    options = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
    before = client.get_inference_statistics(MODEL)["model_stats"][0]
    for _ in range(20):
        assert np.array_equal(client.infer(MODEL, [tensor], **options).as_numpy("y"), array * 2)
    (after,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
    assert after["inference_count"] - before["inference_count"] == 160
    assert after["execution_count"] - before["execution_count"] == 20  # one at a time
    (batch,) = [batch for batch in after["batch_stats"] if batch["batch_size"] == 8]
    assert batch["compute_infer"]["count"] == 20
    assert batch["compute_infer"]["ns"] > 0


def post(system: LocalSystem, path: str, body: bytes, kind: str = "application/json") -> Answer:
    return send(system, body, path, content_type=kind)


def test_other_servers_clients_are_served(system: LocalSystem) -> None:
    row = [float(number) for number in range(WIDTH)]
    twice = [2 * number for number in row]
    data = json.dumps({"inputs": [row]}).encode()
    csv = ",".join(f"c{n}" for n in range(WIDTH)) + "\n" + ",".join(map(str, row)) + "\n"
    for path in ("/invocations", f"/v2/models/{MODEL}/invocations"):
        assert post(system, path, data) == (200, {"predictions": {"y": [twice]}})
        assert post(system, path, csv.encode(), "text/csv")[1] == {"predictions": {"y": [twice]}}
        refused = post(system, path, b"{}")
        assert (refused[0], refused[1]["error_code"]) == (400, "BAD_REQUEST")
    predicted = post(system, f"/v1/models/{MODEL}:predict", data.replace(b"inputs", b"instances"))
    assert predicted == (200, {"predictions": [twice]})
    assert system.get(f"/v1/models/{MODEL}")[0] == 200

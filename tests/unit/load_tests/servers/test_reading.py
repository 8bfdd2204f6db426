"""What is read of logs, of metrics, of /proc and of answers."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import numpy as np
import pytest

from load_tests.measuring.compare import matches
from load_tests.server import Encoding, ServerError
from load_tests.servers import oip
from load_tests.servers.penstock import Penstock
from load_tests.servers.processes import CpuMeter, alive, descendants, pss_mib, started_at
from load_tests.servers.replica_metrics import Executed, executed
from load_tests.servers.start_log import event_at, since, valkey_ready_at

JSON, BINARY, MSGPACK = Encoding.JSON, Encoding.BINARY, Encoding.MSGPACK


def test_the_first_event_of_a_log_counts() -> None:
    lines = [
        *("Traceback", '{"event": "other"}', "[1]"),
        *(f'{{"event": "serving", "timestamp": "2026-01-02T03:04:0{s}.5Z"}}' for s in (5, 6)),
    ]
    at = datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC).timestamp()
    assert event_at("\n".join(lines), "serving") == at
    assert event_at("\n".join(lines), "leading") is None


def test_the_stores_log_is_in_local_time() -> None:
    now = datetime.now().replace(microsecond=117_000)  # noqa: DTZ005 - as the store writes it
    line = f"24149:M {now:%d %b %Y %H:%M:%S}.117 * Ready to accept connections unix"
    assert valkey_ready_at(f"nonsense\n{line}\n") == pytest.approx(now.timestamp())
    assert valkey_ready_at("") is None


def test_what_never_happened_is_no_number() -> None:
    first, second = since(10.0, [12.5, None])
    assert first == 2.5
    assert math.isnan(second)


def test_executions_of_all_versions_of_a_model() -> None:
    text = """# HELP penstock_replica_rows_total Rows executed.
penstock_replica_rows_total{model="a",version="1"} 30.0
penstock_replica_rows_total{model="a",version="2"} 10.0
penstock_replica_rows_total{model="b",version="1"} 99.0
penstock_replica_batches_total{model="a",version="1"} 4.0
penstock_replica_infer_seconds_total{model="a",version="1"} 0.02
"""
    found = executed(text, "a")
    assert found == Executed(batches=4, rows=40, infer_s=0.02)
    assert str(found) == "batches of 10.0 rows on average, 5.00 ms each"
    assert found.ms_of(32) == pytest.approx(16.0)
    assert Executed(0, 0, 0).ms_of(32) == 0.0
    assert str(found.since(found)) == "no batches"


@pytest.mark.parametrize("encoding", [JSON, BINARY])
def test_a_request_says_the_numbers_exactly(encoding: Encoding) -> None:
    rows = np.random.default_rng(1).random((2, 5), dtype=np.float32)
    request = oip.infer_request("m", encoding, rows)
    assert request.path == "/v2/models/m/infer"
    length = int(request.headers.get(oip.JSON_LENGTH, len(request.body)))
    (tensor,) = json.loads(request.body[:length])["inputs"]
    assert tensor["shape"] == [2, 5]
    raw = request.body[length:]
    sent = np.float32(tensor["data"]) if encoding is JSON else np.frombuffer(raw, np.float32)
    assert np.array_equal(sent.reshape(2, 5), rows)


def test_answers_are_read_in_both_encodings() -> None:
    right = np.array([[1.5, 2.5]], np.float32)
    tensor = {"name": "y", "datatype": "FP32", "shape": [1, 2]}
    text = json.dumps({"model_version": "3", "outputs": [tensor | {"data": [1.5, 2.5]}]}).encode()
    assert np.array_equal(oip.infer_answer({}, text), right)
    head = json.dumps({"model_version": "3", "outputs": [tensor]}).encode()
    headers = {oip.JSON_LENGTH: str(len(head))}
    assert np.array_equal(oip.infer_answer(headers, head + right.tobytes()), right)
    assert oip.version_of({}, text) == oip.version_of(headers, head + right.tobytes()) == "3"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"outputs": []}', b'{"outputs": [{"name": "z"}]}'])
def test_an_answer_without_an_output_is_an_error(body: bytes) -> None:
    with pytest.raises(ServerError):
        oip.infer_answer({}, body)


def test_binary_is_compared_with_the_best_that_a_peer_has() -> None:
    ours = Penstock().encodings
    assert matches(ours, [JSON]) == [(JSON, JSON)]
    assert matches(ours, [JSON, BINARY]) == [(JSON, JSON), (BINARY, BINARY)]
    assert matches(ours, [JSON, MSGPACK]) == [(JSON, JSON), (BINARY, MSGPACK)]


def test_processes_are_found_and_measured() -> None:
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    begun = time.time()
    with subprocess.Popen(
        [sys.executable, "-c", f"{busy}print(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        meter = CpuMeter(lambda: {"busy": [process.pid]})
        process.stdout.readline()
        use = meter.stop()
        assert process.pid in descendants(os.getpid())
        assert 0.2 < use.roles_s["busy"] < 5
        assert use.per_request_us(10)["busy"] == pytest.approx(use.roles_s["busy"] * 1e5)
        assert use.per_request_us(0) == {}
        assert pss_mib({"busy": [process.pid]})["busy"] > 1
        assert started_at(process.pid) == pytest.approx(begun, abs=1)
        process.communicate(b"\n")
    assert not alive(process.pid)
    assert pss_mib({"gone": [process.pid]}) == {"gone": 0.0}

"""Traces from a client's headers through the gateway, the queue and a replica's batch.

The HTTP application and the service run in this process, replicas in theirs; both export over
OTLP to a collector of the test's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from penstock.gateway.http.app import create_app
from penstock.gateway.http.metrics import HttpMetrics
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.http.traced_app import TracedApp
from penstock.shared.process.tracing import SpanRole, Tracer, make_tracer
from tests.e2e.otlp_collector import Collector, Received
from tests.support import models
from tests.support.data_plane import DataPlane, data_plane
from tests.support.waiting import eventually

SERVER, CLIENT, INTERNAL = 2, 3, 1
CLIENT_SPAN = "00f067aa0ba902b7"


@dataclass
class System:
    """A data plane with HTTP in front, and the collector that its spans go to."""

    plane: DataPlane
    client: httpx.AsyncClient
    collector: Collector
    tracer: Tracer

    async def infer(
        self, numbers: list[float], trace: str = "", flags: str = "01", **headers: str
    ) -> httpx.Response:
        """Send rows of a width that suits the model, as a client that is traced."""
        shape = [1, len(numbers)]
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": numbers}]}
        if trace:
            headers["traceparent"] = f"00-{trace}-{CLIENT_SPAN}-{flags}"
        return await self.client.post("/v2/models/m/infer", json=body, headers=headers)

    async def spans(self, trace: str, enough: Callable[[list[Received]], bool]) -> list[Received]:
        """The spans of a trace, once there are enough."""
        await eventually(lambda: enough(self.collector.spans(trace)), 10)
        return self.collector.spans(trace)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the OTEL_* variables of this test's processes name."""
    collector = Collector()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield collector
    collector.close()


@asynccontextmanager
async def system(collector: Collector) -> AsyncIterator[System]:
    tracer = make_tracer("penstock-gateway", "gateway-0", os.environ)
    assert tracer is not None
    async with data_plane(tracer=tracer) as plane:
        app = create_app(plane.service, HttpSettings(), HttpMetrics(CollectorRegistry()))
        transport = httpx.ASGITransport(TracedApp(app, tracer))
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            yield System(plane, client, collector, tracer)
    tracer.flush()


def new_trace() -> str:
    return secrets.token_hex(16)


async def test_a_request_is_one_trace_of_gateway_and_replica(
    collector: Collector, tmp_path: Path
) -> None:
    trace = new_trace()
    async with system(collector) as it:
        await it.plane.join(models.affine(tmp_path / "m", 2.0))
        answer = await it.infer([1.0, 2.0], trace, tracestate="congo=t61rcWkgMzE")
        assert answer.status_code == 200
        found = await it.spans(trace, lambda spans: len(spans) == 4)
    server, attempt, request, batch = found
    assert [span.name for span in found] == [
        "POST /v2/models/{model}/infer",
        "attempt",
        "request",
        "batch",
    ]
    assert [span.kind for span in found] == [SERVER, CLIENT, SERVER, INTERNAL]
    assert [span.parent for span in found] == [CLIENT_SPAN, server.id, attempt.id, request.id]
    assert [span.service for span in found] == [
        *["penstock-gateway"] * 2,
        *["penstock-replica"] * 2,
    ]
    assert [span.instance for span in found] == [*["gateway-0"] * 2, *["replica-0"] * 2]
    assert {span.state for span in found} == {"congo=t61rcWkgMzE"}
    assert batch.links == {request.id}
    assert request.links == {batch.id}
    assert not any(span.failed for span in found)
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["penstock.model"] == "m"
    expected = {
        "penstock.model": "m",
        "penstock.version": "1",
        "penstock.replica": "replica-0",
        "penstock.attempt": 1,
        "penstock.outcome": "ok",
    }
    assert expected.items() <= attempt.attributes.items()
    assert {"penstock.rows": 1, "penstock.outcome": "ok"}.items() <= request.attributes.items()
    assert request.attributes["penstock.infer_ms"] > 0
    assert request.events == ("executing",)
    assert batch.attributes["penstock.batch.rows"] == 1
    assert batch.attributes["penstock.batch.reason"] == "idle"
    for child, parent in ((attempt, server), (request, attempt), (batch, request)):
        assert parent.started_ns <= child.started_ns
        assert child.ended_ns <= parent.ended_ns


async def test_a_batch_links_to_the_requests_of_other_traces(
    collector: Collector, tmp_path: Path
) -> None:
    traces = [new_trace() for _ in range(6)]
    width = 1400
    async with system(collector) as it:
        await it.plane.join(models.slow(tmp_path / "m", width))
        answers = await asyncio.gather(*[it.infer([1.0] * width, trace) for trace in traces])
        assert [answer.status_code for answer in answers] == [200] * 6
        requests = [
            (await it.spans(trace, lambda spans: any(s.name == "request" for s in spans)))
            for trace in traces
        ]
        await eventually(lambda: sum(len(b.links) for b in collector.spans(name="batch")) == 6, 10)
    members = {span.id: span for spans in requests for span in spans if span.name == "request"}
    batches = collector.spans(name="batch")
    shared = max(batches, key=lambda batch: len(batch.links))
    assert len(shared.links) > 1  # what gathered while the first one ran
    assert shared.attributes["penstock.batch.requests"] == len(shared.links)
    assert len({members[link].trace for link in shared.links}) == len(shared.links)
    assert shared.parent in shared.links
    assert all(members[link].links == {shared.id} for link in shared.links)


async def test_each_attempt_is_a_span_and_a_lost_one_says_so(
    collector: Collector, tmp_path: Path
) -> None:
    trace = new_trace()
    async with system(collector) as it:
        folder = models.affine(tmp_path / "m", 2.0)
        first = await it.plane.join(folder)
        os.kill(first.process.pid, signal.SIGSTOP)
        asking = asyncio.create_task(it.infer([1.0, 2.0], trace))
        await eventually(lambda: it.plane.service.counters.first_attempts == 1)
        first.kill()
        await it.plane.join(folder)
        assert (await asking).status_code == 200
        found = await it.spans(
            trace, lambda spans: len([s for s in spans if s.name == "attempt"]) == 2
        )
    lost, second = [span for span in found if span.name == "attempt"]
    assert lost.attributes["penstock.outcome"] == "lost"
    assert lost.failed
    assert second.attributes["penstock.outcome"] == "ok"
    assert second.attributes["penstock.attempt"] == 2
    assert second.attributes["penstock.suspect"] is True
    assert lost.parent == second.parent


async def test_a_deadline_ends_attempt_and_request(collector: Collector, tmp_path: Path) -> None:
    trace = new_trace()
    async with system(collector) as it:
        replica = await it.plane.join(models.affine(tmp_path / "m", 2.0))
        os.kill(replica.process.pid, signal.SIGSTOP)
        late = await it.infer([1.0, 2.0], trace, **{"x-request-timeout-seconds": "0.1"})
        assert late.status_code == 504
        os.kill(replica.process.pid, signal.SIGCONT)
        found = await it.spans(trace, lambda spans: len(spans) >= 3)
    by_name = {span.name: span for span in found}
    assert by_name["attempt"].attributes["penstock.outcome"] == "cancelled"
    # The replica may read the request before it reads that nobody wants it any more.
    outcomes = ("cancelled", "deadline_exceeded", "ok")
    assert by_name["request"].attributes["penstock.outcome"] in outcomes
    assert by_name["POST /v2/models/{model}/infer"].failed


async def test_what_is_not_sampled_is_not_recorded(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    trace = new_trace()
    async with system(collector) as it:
        await it.plane.join(models.affine(tmp_path / "m", 2.0))
        for flags, known in (("00", new_trace()), ("00", ""), ("01", trace)):
            assert (await it.infer([1.0, 2.0], known, flags)).status_code == 200
        await it.spans(trace, lambda spans: len(spans) == 4)
    assert {span.trace for span in collector.spans()} == {trace}


async def test_a_process_that_drains_sends_its_last_spans(
    collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    trace = new_trace()
    async with system(collector) as it:
        replica = await it.plane.join(models.affine(tmp_path / "m", 2.0))
        await it.infer([1.0, 2.0], trace)
        it.plane.drain(replica)
        await asyncio.to_thread(replica.process.wait, 10)
        assert [span.name for span in collector.spans(trace)] == ["request", "batch"]
        await asyncio.to_thread(it.tracer.flush)
    assert len(collector.spans(trace)) == 4


def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        port = hanging.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        tracer = make_tracer("s", "i", {**os.environ})
        assert tracer is not None
        span = tracer.start("n", SpanRole.SERVER, "", {})
        assert span is not None
        span.end()
        started = time.monotonic()
        tracer.flush(0.3)
        assert time.monotonic() - started < 2


async def test_without_tracing_the_clients_context_reaches_the_replica(
    collector: Collector, tmp_path: Path
) -> None:
    """The gateway is not traced, the replica is: its span is the client's child."""
    trace = new_trace()
    async with data_plane() as plane:
        await plane.join(models.affine(tmp_path / "m", 2.0))
        app = create_app(plane.service, HttpSettings(), HttpMetrics(CollectorRegistry()))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://g") as client:
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
            headers = {"traceparent": f"00-{trace}-{CLIENT_SPAN}-01"}
            answer = await client.post(
                "/v2/models/m/infer", content=json.dumps(body), headers=headers
            )
            assert answer.status_code == 200
        await eventually(lambda: len(collector.spans(trace)) == 2, 10)
    request, batch = collector.spans(trace)
    assert (request.parent, batch.parent) == (CLIENT_SPAN, request.id)

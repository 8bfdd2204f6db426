"""A whole system watched: its traces in MLflow, its metrics in a real Prometheus."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.e2e.prometheus import RULES, Prometheus, needs_prometheus, promtool
from tests.e2e.system import LocalSystem
from tests.support.waiting import wait_until
from tests.unit.deploy.test_metrics_doc import documented

CLIENT_SPAN = "00f067aa0ba902b7"
REQUESTS = 20


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def infer(system: LocalSystem, trace: str = "") -> None:
    """One request to the demo's model."""
    image = {"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
    headers = {"traceparent": f"00-{trace}-{CLIENT_SPAN}-01"} if trace else {}
    post(f"{system.url}/v2/models/digits/infer", {"inputs": [image]}, headers)


def spans_in_mlflow(system: LocalSystem, trace: str) -> dict[str, dict[str, Any]]:
    """The spans of a trace by their names, as MLflow's REST API gives them."""
    url = f"{system.mlflow_uri}/api/3.0/mlflow/traces/get?trace_id=tr-{trace}"
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            found = json.load(response)["trace"].get("spans", [])
    except urllib.error.HTTPError:
        return {}  # it has not heard of the trace yet
    return {span["name"]: span for span in found}


def test_a_trace_goes_from_the_client_to_mlflow(demo_system: LocalSystem) -> None:
    trace = secrets.token_hex(16)
    infer(demo_system, trace)
    wait_until(lambda: len(spans_in_mlflow(demo_system, trace)) == 4, 15, "four spans in MLflow")
    spans = spans_in_mlflow(demo_system, trace)
    server = spans["POST /v2/models/{model}/infer"]
    chain = [server, spans["attempt"], spans["request"], spans["batch"]]
    assert {base64.b64decode(span["trace_id"]).hex() for span in chain} == {trace}
    ids = [base64.b64decode(span["span_id"]).hex() for span in chain]
    parents = [base64.b64decode(span["parent_span_id"]).hex() for span in chain]
    assert parents == [CLIENT_SPAN, *ids[:3]]
    assert [base64.b64decode(x["span_id"]).hex() for x in spans["batch"]["links"]] == [ids[2]]


def test_mlflow_finds_the_trace_and_only_what_was_sampled(demo_system: LocalSystem) -> None:
    trace = secrets.token_hex(16)
    infer(demo_system)  # without a traceparent: the system's sampler takes none of these
    infer(demo_system, trace)
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
    query = {"locations": [location], "filter": "span.name = 'attempt'", "max_results": 100}

    def found() -> set[str]:
        answer = post(f"{demo_system.mlflow_uri}/api/3.0/mlflow/traces/search", query)
        return {each["trace_id"] for each in answer.get("traces", [])}

    wait_until(lambda: f"tr-{trace}" in found(), 15, "the trace is found")
    spans = spans_in_mlflow(demo_system, trace)
    assert "GET" not in "".join(spans)  # MLflow's own server is not traced
    assert len(found()) <= 2  # this test's, and that of the one above


def metrics_ports(system: LocalSystem) -> dict[str, int]:
    """Ports of all processes' own metrics, as they report them."""
    described = system.system_file()

    async def ports() -> dict[str, int]:
        store = RedisStateStore(described["redis_url"], Keys(described["namespace"]))
        gateways, workers = await store.gateways(), await store.workers()
        syncs = await store.syncs()
        await store.close()
        found = {gateway.gateway: gateway.metrics_port for gateway in gateways}
        found |= {worker.worker: worker.metrics_port for worker in workers}
        return found | {sync.sync: sync.metrics_port for sync in syncs}

    return asyncio.run(ports())


def page_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        page: str = response.read().decode()
    return page


def names_on(page: str) -> set[str]:
    """Names of our metrics, as `# TYPE` lines tell them."""
    return set(re.findall(r"^# TYPE (penstock_\S+)", page, re.MULTILINE))


def test_promtool_finds_nothing_to_say_of_any_page(demo_system: LocalSystem) -> None:
    needs_prometheus()
    infer(demo_system)
    ports = metrics_ports(demo_system)
    assert len(ports) >= 4  # two gateways, a worker or two, a registry_sync
    for port in (*ports.values(), demo_system.metrics_port, demo_system.port):
        assert promtool("check", "metrics", page=page_of(port)) == ""


def test_the_sum_has_every_documented_metric_and_no_other(demo_system: LocalSystem) -> None:
    infer(demo_system)

    def names() -> set[str]:
        return names_on(page_of(demo_system.metrics_port))

    wait_until(lambda: names() == set(documented()), 10, f"all metrics: {documented().keys()}")


def test_the_configuration_that_we_ship_is_valid() -> None:
    needs_prometheus()
    assert "SUCCESS" in promtool("check", "config", str(RULES / "prometheus.yml"))


@pytest.fixture
def prometheus(demo_system: LocalSystem, tmp_path: Path) -> Iterator[Prometheus]:
    needs_prometheus()
    each = list(metrics_ports(demo_system).values())
    server = Prometheus(tmp_path, demo_system.metrics_port, each)
    yield server
    server.close()


def test_a_real_prometheus_scrapes_the_system(
    demo_system: LocalSystem, prometheus: Prometheus
) -> None:
    infer(demo_system)
    up = 'count(up{job="each"} == 1)'
    processes = len(metrics_ports(demo_system))
    wait_until(lambda: prometheus.value(up) == processes, 15, "all processes are up")
    wait_until(lambda: prometheus.value('up{job="penstock"}') == 1, 15, "the sum is up")
    counted = 'sum(penstock_gateway_requests_total{{job="{}",model="digits",code="ok"}})'
    wait_until(lambda: prometheus.value(counted.format("penstock")) is not None, 10, "a count")
    before = prometheus.value(counted.format("penstock"))
    assert before is not None
    for _ in range(REQUESTS):
        infer(demo_system)
    for job in ("penstock", "each"):  # the sum says what the processes say together
        query = counted.format(job)
        wait_until(lambda q=query: prometheus.value(q) == before + REQUESTS, 10, query)  # type: ignore[misc]
    executed = 'sum(penstock_replica_rows_total{job="penstock",model="digits"})'
    wait_until(lambda: (prometheus.value(executed) or 0) >= REQUESTS, 10, "rows are counted")
    assert prometheus.value('sum(penstock_sync_leader{job="penstock"})') == 1
    ready = "sum(penstock_gateway_ready_replicas{{job='{}'}})"
    most = ready.format("penstock")  # two gateways see each replica, and the sum shows one
    each = ready.format("each")
    wait_until(lambda: (prometheus.value(most) or 0) * 2 == prometheus.value(each), 10, "replicas")

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: {rule["health"] for rule in rules()} == {"ok"}, 10, "rules are evaluated")
    rate = 'max(penstock:requests:rate1m{model="digits"})'  # takes two scrapes to have a value
    wait_until(lambda: prometheus.value(rate) is not None, 10, "a rate is recorded")

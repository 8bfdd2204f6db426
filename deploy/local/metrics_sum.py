"""The sum of all processes' metrics, so that one machine is one target for Prometheus.

Each gateway, worker and registry_sync daemon serves its own metrics on a port that it reports in
the state store. A scrape of the sum scrapes them all and adds samples of the same name and labels;
counters, histograms and gauges alike, because most gauges are amounts (rows queued, calls in
flight). `LARGEST` names what is not, or is the same in several processes; of that the largest is
shown. A counter of the sum
falls when a process is gone, which Prometheus takes for a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from deploy.local.direct_http import open_direct
from gateway.origin_policy import OriginPolicy, origin_policy
from shared.addresses import is_loopback
from shared.deployment import GatewayReport, SyncReport, WorkerReport
from shared.errors import StateStoreError
from shared.ids import node_name
from shared.keys import Keys
from shared.state_store import RedisStateStore

SCRAPE_TIMEOUT_S = 3.0
PARALLEL_SCRAPES = 16

LARGEST = frozenset(
    {
        "penstock_gateway_ready_replicas",  # all gateways count the same replicas
        "penstock_gateway_routing_generation",  # a name of a state, not an amount
        # All gateways read the same from the job store.
        "penstock_jobs_attempts",
        "penstock_jobs_attempts_lost",
        "penstock_jobs_attempts_released",
        "penstock_jobs_backlog_seconds",
        "penstock_jobs_dead_letters",
        "penstock_jobs_finished",
        "penstock_jobs_garbage_blobs",
        "penstock_jobs_in_flight",
        "penstock_jobs_oldest_seconds",
        "penstock_jobs_records",
        "penstock_jobs_seconds",
        "penstock_jobs_state_seconds",
        "penstock_jobs_store_bytes",
        "penstock_jobs_submitted",
        "penstock_jobs_waiting",
        "penstock_jobs_webhooks_undelivered",
        "penstock_jobs_webhooks_waiting",
        "penstock_sync_registry_age_seconds",  # one daemon leads, and the others show 0
    }
)
"""Families of which the sum shows the largest samples."""

_NO_AMOUNTS = ("python_info", "process_start_time_seconds", "process_max_fds")


def sum_metrics(pages: Iterable[str]) -> str:
    """The pages' samples added up, in Prometheus's text format.

    A page that cannot be parsed is left out. Families that are no amounts (times, versions, limits)
    are left out of the sum, except that of those in `LARGEST` the largest samples are shown.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for page in pages:
        for family in _parse(page):
            if family.name.endswith("_created") or family.name in _NO_AMOUNTS:
                continue
            families.setdefault(family.name, family)
            sums = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sample.labels.items()))
                before = sums.get(key)
                if before is None:
                    sums[key] = sample.value
                elif family.name in LARGEST:
                    sums[key] = max(before, sample.value)
                else:
                    sums[key] = before + sample.value
    return _render(families, values)


class MetricsServer:
    """Serves the sum at /metrics, in threads of its own; they share nothing but their arguments.

    Args:
        listener: where it is asked.
        redis_url, namespace: of the store in which processes report.
        host: what the listener was bound by, if that is a name.
    """

    def __init__(
        self, listener: socket.socket, redis_url: str, namespace: str, host: str = ""
    ) -> None:
        loopback = is_loopback(listener.getsockname()[0])

        class Handler(_Handler):
            store = (redis_url, namespace)
            policy = origin_policy("", "", loopback=loopback, host=host)

        self._server = ThreadingHTTPServer(("", 0), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def start(self) -> None:
        """Serve until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    store: tuple[str, str]
    policy: OriginPolicy

    def do_GET(self) -> None:
        host = self.headers.get("host")
        if host is not None and not self.policy.knows_host(host.encode("latin-1")):
            self.send_error(421, "expected an IP address or localhost as Host")
            return
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        try:
            ports = asyncio.run(_metrics_ports(*self.store))
        except StateStoreError:
            self.send_error(503, "state store unavailable")
            return
        with ThreadPoolExecutor(PARALLEL_SCRAPES) as pool:
            body = sum_metrics(pool.map(scrape, ports)).encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""


async def _metrics_ports(redis_url: str, namespace: str) -> list[int]:
    store = RedisStateStore(redis_url, Keys(namespace))
    try:
        gateways, workers = await store.gateways(), await store.workers()
        syncs = await store.syncs()
    finally:
        await store.close()
    reports: tuple[GatewayReport | WorkerReport | SyncReport, ...] = (*gateways, *workers, *syncs)
    # Others may share the store: what they report as local is local to them.
    here = [report for report in reports if report.node == node_name()]
    return [report.metrics_port for report in here if report.metrics_port > 0]


def scrape(port: int) -> str:
    """A process's metrics; nothing if it has just gone."""
    with contextlib.suppress(OSError):
        url = f"http://127.0.0.1:{port}/metrics"
        with open_direct(url, SCRAPE_TIMEOUT_S) as response:
            return response.read().decode()
    return ""


def _parse(page: str) -> list[Metric]:
    try:
        return list(text_string_to_metric_families(page))
    except ValueError:
        return []


def _render(
    families: dict[str, Metric],
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]],
) -> str:
    class Sum(Collector):
        def collect(self) -> Iterator[Metric]:
            for name, family in families.items():
                metric = Metric(name, family.documentation, family.type)
                for (sample, labels), value in values[name].items():
                    metric.add_sample(sample, dict(labels), value)
                yield metric

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Sum())
    return generate_latest(registry).decode()

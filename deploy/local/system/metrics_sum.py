"""Serves the sum of all processes' metrics, so that one machine is one target for Prometheus.

Each gateway, worker and registry_sync daemon serves its own metrics on a port that it reports in
the state store. A scrape of the sum scrapes them all; `metrics_pages` adds them up.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from penstock.deploy.local.system.direct_http import open_direct
from penstock.deploy.local.system.metrics_pages import EndedCounters, sum_metrics
from penstock.gateway.clients.origin_policy import OriginPolicy, origin_policy
from penstock.shared.contracts.addresses import is_loopback
from penstock.shared.contracts.deployment import GatewayReport, SyncReport, WorkerReport
from penstock.shared.contracts.errors import StateStoreError
from penstock.shared.contracts.ids import node_name
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore

SCRAPE_TIMEOUT_S = 3.0
PARALLEL_SCRAPES = 16


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
            ended = EndedCounters()
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
    ended: EndedCounters
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
            pages = dict(zip(ports, pool.map(scrape, ports.values()), strict=True))
        body = sum_metrics(self.ended.completed(pages)).encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not news."""


async def _metrics_ports(redis_url: str, namespace: str) -> dict[str, int]:
    """Where each process on this machine serves its metrics, by the name of its life."""
    store = RedisStateStore(redis_url, Keys(namespace))
    try:
        gateways, workers = await store.gateways(), await store.workers()
        syncs = await store.syncs()
    finally:
        await store.close()
    reports: tuple[GatewayReport | WorkerReport | SyncReport, ...] = (*gateways, *workers, *syncs)
    # Others may share the store: what they report as local is local to them.
    here = [report for report in reports if report.node == node_name()]
    return {_life_of(each): each.metrics_port for each in here if each.metrics_port > 0}


def _life_of(report: GatewayReport | WorkerReport | SyncReport) -> str:
    return report.sync if isinstance(report, SyncReport) else report.incarnation


def scrape(port: int) -> str:
    """A process's metrics; nothing if it has just gone."""
    with contextlib.suppress(OSError):
        url = f"http://127.0.0.1:{port}/metrics"
        with open_direct(url, SCRAPE_TIMEOUT_S) as response:
            return response.read().decode()
    return ""

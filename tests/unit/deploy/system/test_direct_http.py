"""Calls to our own parts do not pass the proxies of the environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from penstock.deploy.local.system.direct_http import spare_loopback
from penstock.deploy.local.system.metrics_sum import scrape
from penstock.deploy.local.up.readiness import answers

CLOSED = "http://127.0.0.1:9"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server on the loopback, where the environment names a proxy that is not there."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, CLOSED)
    # The library reads the environment once, at a process's first call.
    monkeypatch.setattr("urllib.request._opener", None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_part_that_answers_is_seen_to(port: int) -> None:
    assert await answers(f"http://127.0.0.1:{port}/v2/health/live")()


async def test_a_server_of_others_is_asked_through_the_proxy(port: int) -> None:
    assert not await answers(f"http://127.0.0.1:{port}/health", ours=False)()


def test_metrics_of_processes_are_scraped(port: int) -> None:
    assert scrape(port) == "ok"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"http_proxy": "p"}, "localhost,127.0.0.1"),
        ({"HTTPS_PROXY": "p", "NO_PROXY": "a, b"}, "a,b,localhost,127.0.0.1"),
        ({"http_proxy": "p", "no_proxy": "127.0.0.1"}, "127.0.0.1,localhost"),
        ({"http_proxy": "p", "no_proxy": "*"}, "*"),
        ({"PATH": "/bin"}, None),
    ],
)
def test_what_we_start_spares_the_loopback(before: dict[str, str], after: str | None) -> None:
    environment = dict(before)
    spare_loopback(environment)
    assert environment.get("no_proxy") == after
    again = dict(environment)
    spare_loopback(again)
    assert again == environment

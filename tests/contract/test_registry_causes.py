"""Why MLflow cannot be read: by its own client, against servers that fail in many ways."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from penstock.registry_sync.sources.mlflow_source import MlflowSource
from penstock.registry_sync.sources.types import RegistryError
from tests.contract.registries import ALIASES, something_else
from tests.unit.gateway.webhooks.receivers import self_signed


@contextmanager
def answering(
    answer: Callable[[str], tuple[int, bytes]], tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    """A server that answers by the path, with a status and a body; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that does not trust us says so

    with Server(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def failure(uri: str) -> str:
    with pytest.raises(RegistryError) as raised:
        MlflowSource(uri, ALIASES).observe([])
    return raised.value.message


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    context, _ = self_signed(tmp_path, "localhost")
    with answering(lambda _path: (200, b"{}"), context) as port:
        told = failure(f"https://localhost:{port}")
    assert told.startswith("TLS: certificate verify failed: self-signed certificate (MLflow at ")


def test_a_server_that_speaks_no_tls() -> None:
    with answering(lambda _path: (200, b"{}")) as port:
        assert failure(f"https://localhost:{port}").startswith("TLS: ")


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (401, "HTTP 401 Unauthorized, check the login"),
        (403, "HTTP 403 Forbidden, check the login"),
        (404, "HTTP 404 Not Found"),
        (500, "HTTP 500 Internal Server Error"),
        (503, "HTTP 503 Service Unavailable"),
    ],
)
def test_a_status_of_a_proxy_or_of_mlflow(status: int, cause: str) -> None:
    with answering(lambda _path: (status, b"<html>" + b"x" * 10_000)) as port:
        told = failure(f"http://someone:secret@127.0.0.1:{port}")
    assert told.startswith(f"{cause} (MLflow at 127.0.0.1:{port}")
    assert "secret" not in told
    assert len(told) < 600


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = failure(f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert told.startswith("timed out after 1 s (MLflow at ")


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("http://nowhere.invalid:5000", "host not found"),
    ],
)
def test_nobody_there(uri: str, cause: str) -> None:
    assert failure(uri).startswith(cause)


def test_what_mlflow_itself_says() -> None:
    body = b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such filter"}'
    with answering(lambda _path: (400, body)) as port:
        told = failure(f"http://127.0.0.1:{port}")
    assert told.startswith("RestException: INVALID_PARAMETER_VALUE: no such filter (MLflow at ")


def test_a_page_instead_of_an_answer() -> None:
    with something_else(b"<html>please log in</html>") as url:
        assert failure(url).startswith("no JSON, as MLflow answers (MLflow at ")


LISTED = b'{"registered_models": [{"name": "other"}]}'
FOUND = b'{"registered_model": {"name": "deployed"}}'
GONE = b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "gone"}'
VERSION = b'{"model_version": {"name": "deployed", "version": "1", "source": "s"}}'


@pytest.mark.parametrize("there", [True, False])
def test_a_deployed_model_that_is_not_listed_is_asked_for_by_its_name(there: bool) -> None:
    """Pages shift while models are deleted; what is really gone is gone."""

    def answer(path: str) -> tuple[int, bytes]:
        if "registered-models/search" in path:
            return 200, LISTED
        if "model-versions/search" in path:
            return 200, b"{}"
        if not there:
            return 404, GONE
        return 200, FOUND if "registered-models/get" in path else VERSION

    with answering(answer) as port:
        seen = MlflowSource(f"http://127.0.0.1:{port}", ALIASES).observe([("deployed", "1")])
    assert set(seen) == ({"deployed", "other"} if there else {"other"})
    if there:
        assert [each.version for each in seen["deployed"].versions] == ["1"]


@pytest.mark.parametrize("empty", ["registered-models/get", "model-versions/get"])
def test_an_empty_answer_about_what_is_deployed_deletes_nothing(empty: str) -> None:
    def answer(path: str) -> tuple[int, bytes]:
        if "registered-models/search" in path:
            return 200, LISTED
        if "search" in path or empty in path:
            return 200, b"{}"
        return 200, FOUND if "registered-models/get" in path else VERSION

    with answering(answer) as port, pytest.raises(RegistryError, match="something else"):
        MlflowSource(f"http://127.0.0.1:{port}", ALIASES).observe([("deployed", "1")])

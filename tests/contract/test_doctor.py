"""`penstock doctor` on real servers, sockets and folders."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from penstock.deploy.local.commands.diagnosis import Check, Level
from penstock.deploy.local.commands.doctor import (
    look_at_endpoint,
    look_at_folder,
    look_at_mlflow,
    look_at_redis,
)
from penstock.deploy.local.commands.probe import probe
from tests.contract.redis_server import Server
from tests.support.commands import penstock

NOBODY = "127.0.0.1:1"


def by_name(checks: list[Check]) -> dict[str, Level]:
    return {each.check: each.level for each in checks}


async def test_a_store_that_is_set_up_for_jobs_needs_nothing(job_server: Server) -> None:
    levels = by_name(await look_at_redis(job_server.url))
    assert levels.pop("redis memory") is Level.NOTE  # it has no bound here
    assert set(levels.values()) == {Level.OK}


async def test_a_store_that_evicts_and_keeps_nothing_must_be_mended() -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        server = Server(Path(folder), appendonly="no", **{"maxmemory-policy": "allkeys-lru"})
        server.start()
        try:
            levels = by_name(await look_at_redis(server.url))
        finally:
            server.kill()
    assert levels["redis eviction"] is levels["redis persistence"] is Level.MEND


@pytest.mark.parametrize("url", [f"redis://:hidden@{NOBODY}/0", "http://:hidden@nowhere"])
async def test_a_store_that_is_away_is_named_without_its_password(url: str) -> None:
    (check,) = await look_at_redis(url)
    assert check.level is Level.MEND
    assert "hidden" not in check.model_dump_json()


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answering)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_mlflow_is_asked_whether_it_is_well(answering: str) -> None:
    assert look_at_mlflow(answering + "/").level is Level.OK
    assert look_at_mlflow(answering + "/other").level is Level.MEND
    assert look_at_mlflow("sqlite:///x.db").level is Level.NOTE
    assert look_at_mlflow(answering.replace("//", "//me:hidden@")).level is Level.OK
    assert look_at_mlflow("http://[::1").level is Level.MEND
    assert look_at_mlflow("http://here:port").level is Level.MEND
    away = look_at_mlflow(f"http://me:hidden@{NOBODY}")
    assert away.level is Level.MEND
    assert "hidden" not in away.model_dump_json()


def test_a_gateways_socket_is_tried_where_it_would_lie(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        assert look_at_endpoint(f"ipc://{folder}/later/g.ipc").level is Level.OK
        assert list(Path(folder).iterdir()) == []
    assert look_at_endpoint("ipc:///proc/g.ipc").level is Level.MEND
    assert "longer than" in look_at_endpoint(f"ipc:///tmp/{'x' * 120}").found
    assert look_at_endpoint("tcp://0.0.0.0:1").level is Level.OK


def test_a_folder_that_cannot_be_made_must_be_mended(tmp_path: Path) -> None:
    assert look_at_folder("data directory", tmp_path / "a" / "b").level is Level.OK
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert look_at_folder("data directory", tmp_path / "file" / "b").level is Level.MEND


def test_a_library_is_tried_by_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no_such_symbols.py").write_text("raise OSError('libcudart.so.12')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert probe("no_such_symbols").error == "OSError: libcudart.so.12"
    assert probe("no_such_library").missing == "no_such_library"
    assert probe("orjson").version


def test_the_command_prints_json_and_ends_with_1_if_something_must_be_mended() -> None:
    done = penstock("doctor", "--json", "--redis-url", f"redis://{NOBODY}/0", timeout_s=240)
    assert done.returncode == 1, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is False
    levels = {each["check"]: each["level"] for each in document["checks"]}
    assert levels["redis"] == "mend"
    assert levels["gateway"] == levels["python"] == "ok"
    assert "mlflow" not in levels

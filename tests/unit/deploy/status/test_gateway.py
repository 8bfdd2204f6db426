"""`penstock status --url`, against an HTTP server with scripted answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.main import app
from tests.unit.deploy.fake_gateway import FakeGateway

INDEX = "POST /v2/repository/index"
READY = "GET /v2/health/ready"
DIGITS = {"name": "digits", "version": "9", "state": "READY", "reason": ""}
STALE = {
    "name": "digits",
    "version": "10",
    "state": "UNAVAILABLE",
    "reason": "no replica is ready",
}
LOST = {"name": "lost", "state": "UNAVAILABLE", "reason": "version 3 is loading"}


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway().serving() as served:
        yield served


def status(gateway: FakeGateway, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["status", "--url", gateway.url, *arguments])


def test_a_gateways_models_are_in_the_same_table(gateway: FakeGateway) -> None:
    gateway.will(INDEX, (200, [DIGITS, STALE, LOST]))
    gateway.will(READY, (200, {"live": True, "ready": True}))
    done = status(gateway)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["model", "version", "role", "status", "ready"] in rows
    assert ["digits", "9", "serving", "yes"] in rows
    assert ["digits", "10", "serving", "no"] in rows
    assert ["lost", "no"] in rows
    assert f"gateway at {gateway.url}: ready" in done.stdout
    assert "digits/10: no replica is ready" in done.stdout
    assert "lost: version 3 is loading" in done.stdout
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("index", "ready", "code"),
    [([DIGITS], 200, 0), ([DIGITS, LOST], 200, 3), ([DIGITS], 400, 3), ([], 200, 0)],
)
def test_what_is_not_ready_is_an_exit_code(
    gateway: FakeGateway, index: list[dict[str, str]], ready: int, code: int
) -> None:
    gateway.will(INDEX, (200, index))
    gateway.will(READY, (ready, {"live": True, "ready": ready == 200}))
    done = status(gateway, "--exit-code", "--json")
    assert done.exit_code == code
    document = orjson.loads(done.stdout)
    assert document["ready"] is (ready == 200)
    assert [each["model"] for each in document["models"]] == [each["name"] for each in index]


def test_a_gateway_is_asked_past_any_proxy(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    gateway.will(INDEX, (200, [DIGITS]))
    gateway.will(READY, (200, {}))
    assert status(gateway).exit_code == 0


def test_what_is_no_gateway_is_told_in_one_line(gateway: FakeGateway) -> None:
    gateway.will(INDEX, (200, b"<html>"))
    failure = status(gateway).exception
    assert isinstance(failure, CommandError)
    assert failure.message == f"what answers at {gateway.url} is no gateway of Penstock"


def test_a_gateway_and_a_store_are_not_asked_together(gateway: FakeGateway) -> None:
    failure = status(gateway, "--redis-url", "redis://127.0.0.1:1/0").exception
    assert isinstance(failure, CommandError)
    assert failure.exit_code == 2


def test_names_and_reasons_cannot_move_the_cursor(gateway: FakeGateway) -> None:
    gateway.will(INDEX, (200, [{**LOST, "name": "x\x1b[2Jy", "reason": "a\x1b[2Jb"}]))
    gateway.will(READY, (200, {}))
    assert "\x1b" not in status(gateway).stdout

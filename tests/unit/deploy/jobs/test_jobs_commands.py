"""`penstock submit` and `penstock jobs`, against an HTTP server with scripted answers."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console
from typer.testing import CliRunner

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.cli.main import app
from penstock.deploy.local.jobs.gateway_client import (
    GatewayAwayError,
    GatewayClient,
    RefusedError,
    patiently,
)
from penstock.deploy.local.jobs.png import SIGNATURE
from penstock.deploy.local.jobs.result import picture_of
from penstock.deploy.local.jobs.server_events import ServerEvent
from penstock.deploy.local.jobs.submit import SubmitOptions
from penstock.deploy.local.jobs.watch import watch
from tests.unit.deploy.fake_gateway import JOB, FakeGateway, event, job

INPUT = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0.5]}]}
ANSWER = {"outputs": [{"name": "y", "shape": [2, 1, 2], "datatype": "FP32", "data": [0, 1, 1, 0]}]}
SUBMIT = "POST /v2/models/mlp/jobs"
GET = f"GET /v2/jobs/{JOB}"
EVENTS = f"{GET}/events"
RESULT = f"{GET}/result"


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    with FakeGateway().serving() as served:
        yield served


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "input.json"
    path.write_bytes(orjson.dumps(INPUT))
    return path


def run(gateway: FakeGateway, *arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(app, [*arguments, "--url", gateway.url], **more)


def test_submit_prints_the_jobs_id(gateway: FakeGateway, source: Path) -> None:
    gateway.will(SUBMIT, (202, job("queued", place=3)))
    done = run(gateway, "submit", "mlp", "--input", str(source))
    assert (done.exit_code, done.stdout) == (0, f"{JOB}\n")
    [(_, _, headers, body)] = gateway.asked
    assert orjson.loads(body) == INPUT
    assert headers["content-type"] == "application/json"
    assert len(headers["idempotency-key"]) == 32


def test_options_become_parameters(gateway: FakeGateway) -> None:
    gateway.will("POST /v2/models/a%2Fb/versions/7/jobs", (202, job("queued")))
    given = {**INPUT, "parameters": {"temperature": 0.5, "priority": 9}}
    arguments = "--version 7 --input - --priority 1 --timeout-s 2.5 --ttl-s 60 --result-ttl-s 3600"
    webhook = "--webhook https://h/x --webhook-event succeeded --webhook-event failed"
    key = "--idempotency-key k1"
    everything = [*arguments.split(), *webhook.split(), *key.split()]
    done = run(gateway, "submit", "a/b", *everything, input=orjson.dumps(given))
    assert done.exit_code == 0, done.exception
    [(_, _, headers, body)] = gateway.asked
    assert headers["idempotency-key"] == "k1"
    assert orjson.loads(body)["parameters"] == {
        "temperature": 0.5,
        "priority": 1,
        "timeout": 2_500_000,
        "ttl_seconds": 60.0,
        "result_ttl_seconds": 3600.0,
        "webhook": "https://h/x",
        "webhook_events": "succeeded,failed",
    }


def test_what_is_not_asked_for_is_not_said() -> None:
    assert SubmitOptions().parameters() == {}


def test_a_submit_is_sent_again_under_one_key(gateway: FakeGateway, source: Path) -> None:
    away = (503, {"error": "no job store"})
    gateway.will(SUBMIT, away, away, (202, job("queued")))
    done = run(gateway, "submit", "mlp", "--input", str(source))
    assert done.exit_code == 0
    assert len({headers["idempotency-key"] for _, _, headers, _ in gateway.asked}) == 1
    assert len(gateway.asked) == 3


def test_submit_and_wait(gateway: FakeGateway, source: Path) -> None:
    gateway.will(SUBMIT, (202, job("queued")))
    gateway.will(GET, (200, job("queued", place=3)), (200, job("succeeded")))
    gateway.will(
        EVENTS,
        (
            200,
            event("job", **job("queued", place=2))
            + event("state", "1-0", state="running")
            + event("progress", "2-0", fraction=0.5, message="step 5 of 10", estimated=False)
            + event("output", "3-0", media_type="text/plain", text="x")
            + event("state", "4-0", state="succeeded"),
        ),
    )
    gateway.will(RESULT, (200, ANSWER))
    done = run(gateway, "submit", "mlp", "--input", str(source), "--wait")
    assert done.exit_code == 0, done.exception
    assert orjson.loads(done.stdout) == ANSWER
    lines = [
        "queued, 3 before it",
        "queued, 2 before it",
        "running",
        "running: step 5 of 10 50%",
        "succeeded",
    ]
    assert [line for line in lines if line in done.stderr] == lines


def test_a_picture_is_written(gateway: FakeGateway, source: Path, tmp_path: Path) -> None:
    gateway.will(SUBMIT, (202, job("queued")))
    gateway.will(GET, (200, job("succeeded")))
    gateway.will(RESULT, (200, ANSWER))
    picture = tmp_path / "digit.png"
    done = run(gateway, "submit", "mlp", "--input", str(source), "--wait", "--output", str(picture))
    assert (done.exit_code, done.stdout) == (0, "")
    assert picture.read_bytes() == picture_of(orjson.dumps(ANSWER))
    assert picture.read_bytes().startswith(SIGNATURE)
    plain = tmp_path / "digit.json"
    assert run(gateway, "jobs", "watch", JOB, "--output", str(plain)).exit_code == 0
    assert orjson.loads(plain.read_bytes()) == ANSWER


@pytest.mark.parametrize(
    "outputs",
    [[], [{"name": "y", "shape": [2], "data": [1, 2]}], [{"name": "y", "shape": [9], "data": [1]}]],
)
def test_what_is_no_picture(outputs: list[Any]) -> None:
    with pytest.raises(CommandError, match="no picture"):
        picture_of(orjson.dumps({"outputs": outputs}))


def test_watching_goes_on_after_the_last_event(gateway: FakeGateway) -> None:
    gateway.will(GET, (200, job("running")), (200, job("running")), (200, job("succeeded")))
    gateway.will(
        EVENTS,
        (200, event("progress", "7-1", fraction=0.25, message="")),
        (503, {"error": "no job store"}),
        (200, event("state", "8-0", state="succeeded")),
    )
    console = Console(file=io.StringIO())
    assert watch(GatewayClient(gateway.url), JOB, console).state == "succeeded"
    resumed = [
        headers.get("last-event-id") for _, path, headers, _ in gateway.asked if "events" in path
    ]
    assert resumed == [None, "7-1", "7-1"]


class BreakingClient(GatewayClient):
    """Its streams break off after their first event."""

    def follow(self, path: str, last_event_id: str = "") -> Iterator[ServerEvent]:
        yield next(super().follow(path, last_event_id))
        raise GatewayAwayError("the connection is lost")


def test_patience_begins_anew_after_each_stream(gateway: FakeGateway) -> None:
    gateway.will(GET, (200, job("running")), (200, job("running")), (200, job("succeeded")))
    gateway.will(EVENTS, (200, event("progress", "7-1", fraction=0.25, message="")))
    watch(BreakingClient(gateway.url), JOB, Console(file=io.StringIO()))
    paths = [path.rpartition("/")[2] for _, path, _, _ in gateway.asked]
    assert paths == [JOB, "events", JOB, "events", JOB]


def test_a_terminal_is_shown_a_bar(gateway: FakeGateway) -> None:
    gateway.will(GET, (200, job("running")), (200, job("succeeded")))
    gateway.will(EVENTS, (200, event("progress", "1-1", fraction=0.5, message="half")))
    shown = io.StringIO()
    watch(GatewayClient(gateway.url), JOB, Console(file=shown, force_terminal=True, width=80))
    assert "━" in shown.getvalue()
    assert "100%" in shown.getvalue()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (job("failed", dead=True, error={"code": "replica_crashed", "message": "it died"}),
         "failed (dead letter): replica_crashed: it died"),
        (job("canceled"), "canceled"),
        (job("expired"), "expired"),
    ],
)  # fmt: skip
def test_a_job_that_does_not_succeed(
    gateway: FakeGateway, document: dict[str, Any], told: str
) -> None:
    gateway.will(GET, (200, document))
    done = run(gateway, "jobs", "watch", JOB)
    assert isinstance(done.exception, CommandError)
    assert done.exception.message == f"job {JOB}: {told}"
    assert done.exception.exit_code == 1


def test_jobs_are_listed(gateway: FakeGateway) -> None:
    page = {"jobs": [job("running"), job("queued")], "next_cursor": "c" * 32}
    gateway.will("GET /v2/jobs", (200, page))
    done = run(gateway, "jobs", "list", "--model", "mlp", "--state", "failed", "--limit", "2")
    assert done.exit_code == 0
    assert done.stdout.count(JOB) == 2
    assert "2026-01-02 03:04:05" in done.stdout
    assert f"older ones: --cursor {'c' * 32}" in done.stdout
    assert gateway.asked[0][1] == "/v2/jobs?model=mlp&state=failed&limit=2"
    as_json = run(gateway, "jobs", "list", "--json", "--cursor", "c" * 32)
    assert orjson.loads(as_json.stdout) == page
    assert gateway.asked[1][1] == f"/v2/jobs?cursor={'c' * 32}&limit=20"


def test_where_there_is_no_terminal_a_job_is_one_line(gateway: FakeGateway) -> None:
    model = "m" * 200
    gateway.will("GET /v2/jobs", (200, {"jobs": [job("queued", model=model)], "next_cursor": None}))
    lines = run(gateway, "jobs", "list").stdout.splitlines()
    assert any(JOB in line and model in line for line in lines)


def test_dead_letters_are_listed(gateway: FakeGateway) -> None:
    gateway.will("GET /v2/jobs", (200, {"jobs": [], "next_cursor": None}))
    done = run(gateway, "jobs", "dead")
    assert done.stdout == "No jobs.\n"
    assert gateway.asked[0][1] == "/v2/jobs?dead=true&limit=20"


def test_webhooks_that_were_given_up_are_listed(gateway: FakeGateway) -> None:
    lost = {"id": "5-0", "job": JOB, "model": "mlp", "state": "failed", "attempts": 9}
    lost |= {"reason": "answered 404", "given_up_at": "2026-01-02T03:04:05.678Z"}
    page = {"webhooks": [lost], "next_cursor": "5-0"}
    gateway.will("GET /v2/webhooks/undelivered", (200, page), (200, {"webhooks": []}), (200, page))
    done = run(gateway, "jobs", "webhooks", "--limit", "1")
    assert done.stdout == (
        f"{JOB}  2026-01-02 03:04:05  failed: answered 404; attempts: 9\nolder ones: --cursor 5-0\n"
    )
    assert run(gateway, "jobs", "webhooks").stdout == "No webhooks were given up.\n"
    as_json = run(gateway, "jobs", "webhooks", "--cursor", "5-0", "--json")
    assert orjson.loads(as_json.stdout) == page
    asked = [target.partition("?")[2] for _, target, _, _ in gateway.asked]
    assert asked == ["limit=1", "limit=20", "limit=20&cursor=5-0"]


def test_a_job_is_shown(gateway: FakeGateway) -> None:
    progress = {"fraction": 0.25, "message": "step 1", "estimated": True, "eta_seconds": 12.3}
    gateway.will(GET, (200, job("running", progress=progress)))
    done = run(gateway, "jobs", "show", JOB)
    assert "state       running: step 1\n" in done.stdout
    assert "progress    25% (estimated), 12 s left\n" in done.stdout
    assert orjson.loads(run(gateway, "jobs", "show", JOB, "--json").stdout)["id"] == JOB


@pytest.mark.parametrize(
    ("command", "request_line", "answer", "told"),
    [
        ("cancel", f"POST /v2/jobs/{JOB}/cancel", job("canceling"), "canceling"),
        ("retry", f"POST /v2/jobs/{JOB}/retry", job("queued", place=0), "queued, 0 before it"),
        ("forget", f"DELETE /v2/jobs/{JOB}", b"", "forgotten"),
    ],
)
def test_jobs_are_acted_on(
    gateway: FakeGateway, command: str, request_line: str, answer: Any, told: str
) -> None:
    gateway.will(request_line, (204 if answer == b"" else 200, answer))
    done = run(gateway, "jobs", command, JOB, "other")
    assert done.exit_code == 1  # the other is not there
    assert f"{JOB}: {told}\n" in done.stdout
    assert "other: the gateway says 404: nothing is scripted" in done.stdout
    assert run(gateway, "jobs", command, JOB).exit_code == 0


@pytest.mark.parametrize(
    ("status", "body", "told", "exit_code"),
    [
        (400, b'{"error": "priority: expected 1 to 9"}', "says 400: priority: expected 1 to 9", 2),
        (404, b'{"error": "model \'x\' is unknown"}', "says 404: model 'x' is unknown", 1),
        (409, b"<html>", "says 409: <html>", 1),
        (422, b"", "says 422: no more", 2),
    ],
)
def test_refusals(
    gateway: FakeGateway, status: int, body: bytes, told: str, exit_code: int
) -> None:
    gateway.will(GET, (status, body))
    with pytest.raises(RefusedError, match=told) as caught:
        GatewayClient(gateway.url).call("GET", f"/v2/jobs/{JOB}")
    assert (caught.value.status, caught.value.exit_code) == (status, exit_code)


def test_a_gateway_that_is_away() -> None:
    client = GatewayClient("http://127.0.0.1:1/prefix/")
    with pytest.raises(GatewayAwayError, match=r"does not answer: .*refused"):
        patiently(lambda: client.call("GET", "/v2/jobs"), patience_s=0.3)


def test_who_waits_for_a_gateway_is_told_why(capsys: pytest.CaptureFixture[str]) -> None:
    client = GatewayClient("http://127.0.0.1:1")
    with pytest.raises(GatewayAwayError):
        patiently(lambda: client.call("GET", "/v2/jobs"), patience_s=4.0)
    (line,) = capsys.readouterr().err.splitlines()
    assert "http://127.0.0.1:1 does not answer" in line
    assert line.endswith("trying again")


def test_patience_counts_from_the_first_failure() -> None:
    tries = iter(range(9))

    def slow_at_first() -> str:
        if next(tries) == 0:
            time.sleep(0.4)
            raise GatewayAwayError("lost")
        return "there"

    assert patiently(slow_at_first, patience_s=0.3) == "there"


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://h:port"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(CommandError, match="--url") as caught:
        GatewayClient(url)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [("[1]", "an object"), ("{", "no JSON"), ('{"parameters": 1}', "its parameters")],
)
def test_input_that_is_none(gateway: FakeGateway, text: str, told: str) -> None:
    done = run(gateway, "submit", "mlp", "--input", "-", "--priority", "1", input=text)
    assert isinstance(done.exception, CommandError)
    assert told in done.exception.message
    absent = run(gateway, "submit", "mlp", "--input", "/nowhere")
    assert "No such file" in str(absent.exception)


def test_an_answer_of_another_kind(gateway: FakeGateway) -> None:
    gateway.will(GET, (200, {"id": JOB, "state": "dreaming"}))
    done = run(gateway, "jobs", "show", JOB)
    assert "no job of ours (at state, model)" in str(done.exception)


def test_what_a_job_raised_is_asked_of_a_store_that_is_known_and_may_be_away(
    gateway: FakeGateway,
) -> None:
    gateway.will(GET, (200, job("failed", error={"code": "model_error", "message": "it broke"})))
    plain = run(gateway, "jobs", "show", JOB)
    assert (plain.exit_code, plain.stderr) == (0, "")
    away = run(gateway, "jobs", "show", JOB, "--redis-url", "redis://127.0.0.1:1/0")
    assert (away.exit_code, away.stdout) == (0, plain.stdout)
    assert away.stderr.startswith("penstock: what it raised is not known: the state store does")

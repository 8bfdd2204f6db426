"""`penstock logs`: which lines of a local system's logs are found, and how they are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.commands.log_lines import Finder, LogLine, LogQuery, parsed, shown
from penstock.deploy.local.commands.logs import LINE_BYTES_MAX, Logs, run_logs
from penstock.deploy.local.system.data_dir import DataDir


def line(second: float, **fields: Any) -> bytes:
    timestamp = f"2026-01-01T00:00:{second:06.3f}Z"
    return json.dumps({"timestamp": timestamp, "level": "warning"} | fields).encode() + b"\n"


def refused(second: float = 10.0, request: str = "q1", attempt: int = 3) -> bytes:
    named = [{"attempt": attempt, "replica": "r-1", "worker": "w-1"}]
    return line(
        second,
        event="request failed",
        process="gateway",
        gateway="gateway-0",
        request_id=request,
        model="m",
        duration_ms=100.0,
        attempts=named,
    )


def execution(second: float = 9.95, call: str = "gateway-0/3", **more: Any) -> bytes:
    return line(
        second,
        event="execution failed",
        process="replica",
        replica="r-1",
        model="m",
        calls=[call],
        traceback="Traceback:\n  File x\nKeyError: 'width'",
        **more,
    )


def found(wanted: LogQuery, *raw: bytes) -> list[bytes]:
    finder = Finder(wanted)
    return [each.raw for one in raw for each in finder.feed(one)]


def seen(raw: bytes) -> LogLine:
    made = parsed(raw)
    assert made is not None
    return made


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.make()
    return made


def test_a_request_is_joined_with_the_line_of_its_attempt() -> None:
    others = [refused(request="q2"), execution(call="gateway-0/4"), execution(call="gateway-1/3")]
    assert found(LogQuery("q1"), *others, refused(), execution()) == [refused(), execution()]


def test_the_order_in_which_lines_are_read_does_not_matter() -> None:
    assert found(LogQuery("q1"), execution(), refused()) == [refused(), execution()]


def test_an_attempt_of_an_earlier_life_of_the_gateway_is_another_one() -> None:
    assert found(LogQuery("q1"), refused(20.0), execution(5.0), execution(30.0)) == [refused(20.0)]


def test_a_replica_that_died_with_the_request_is_told_of_by_its_worker() -> None:
    lost = line(
        10.2, event="replica ended", level="info", process="worker", replica="r-1", reason="SIGSEGV"
    )
    other = line(10.2, event="replica ended", level="info", process="worker", replica="r-2")
    later = line(50.0, event="replica ended", level="info", process="worker", replica="r-1")
    assert found(LogQuery("q1"), refused(), lost, other, later) == [refused(), lost]


def test_jobs_and_models_are_found_by_their_names() -> None:
    of_job = execution(jobs=["j1", "j2"])
    port = line(3.0, event="a job was lost to another", job="j1")
    text = line(3.0, event="j1 in a text", model="other")
    assert found(LogQuery(job="j1"), of_job, port, text, refused()) == [of_job, port]
    assert found(LogQuery(model="m"), of_job, port, text, refused()) == [of_job, refused()]


@pytest.mark.parametrize(
    "raw",
    [b"", b"q1\n", b'"q1"\n', b'["q1"]\n', b'{"request_id": "q1"}\n', b"\xffq1\n", b"[" * 9999],
)
def test_what_a_model_prints_is_no_line_of_ours(raw: bytes) -> None:
    assert found(LogQuery("q1"), raw) == []


def test_a_line_is_shown_with_its_traceback_indented() -> None:
    head, *traceback = shown(seen(execution(reason="a b"))).splitlines()
    assert head == (
        "2026-01-01T00:00:09.950Z warning r-1 execution failed replica=r-1 model=m "
        'calls=["gateway-0/3"] reason="a b"'
    )
    assert traceback == ["    Traceback:", "      File x", "    KeyError: 'width'"]


def test_what_a_model_says_does_not_move_the_cursor() -> None:
    assert "\x1b" not in shown(seen(execution(reason="\x1b[2J", exception="\x1b[2J")))


def test_lines_of_all_logs_are_printed_in_order_of_time(
    data_dir: DataDir, capsys: pytest.CaptureFixture[str]
) -> None:
    worker, gateway = data_dir.log_of("worker-0"), data_dir.log_of("gateway-0")
    worker.with_name(worker.name + ".1").write_bytes(b"printed by a model\n" + execution())
    worker.write_bytes(line(1.0, event="ready", replica="r-1"))
    gateway.write_bytes(refused() + refused(request="q2")[:20])
    assert run_logs(LogQuery("q1"), data_dir.path, follow=False, as_json=True) == 0
    assert capsys.readouterr().out.encode() == execution() + refused()
    assert run_logs(LogQuery("q1"), data_dir.path, follow=False, as_json=False) == 0
    assert "    KeyError: 'width'" in capsys.readouterr().out.splitlines()


def test_nothing_found_is_told(data_dir: DataDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_logs(LogQuery("q1"), data_dir.path, follow=False, as_json=False) == 1
    assert "no lines" in capsys.readouterr().err
    with pytest.raises(CommandError, match="did not run there"):
        run_logs(LogQuery("q1"), data_dir.path / "none", follow=False, as_json=False)


def test_what_is_written_is_read_once_and_whole(data_dir: DataDir) -> None:
    log, warnings = data_dir.log_of("worker-0"), list[str]()
    logs = Logs(data_dir.logs, warnings.append)
    log.write_bytes(b"one\ntw")
    assert list(logs.all_lines()) == [b"one\n"]
    with log.open("ab") as file:
        file.write(b"o\n" + b"x" * (LINE_BYTES_MAX + 1))
    assert [len(each) for each in logs.new_lines()] == [4, LINE_BYTES_MAX]
    assert warnings == []
    log.write_bytes(b"anew\n")
    assert list(logs.new_lines()) == [b"anew\n"]
    assert warnings == ["worker-0.log began anew: its last lines may be missing here"]

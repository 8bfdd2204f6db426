"""What is written for wrk, and what it prints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from load_tests.measuring.closed_loop import find_wrk, parse_summary, write_requests
from load_tests.server import HttpRequest, ServerError

OUTPUT = """Running 2s test @ http://127.0.0.1:8080
  1 threads and 16 connections
  5678 requests in 2.00s, 1.29MB read
wrk-summary: {"requests":5678,"duration_us":2001000,"p50_us":1500,"p90_us":2500,"p99_us":9000,\
"p999_us":12000,"max_us":15000,"errors":{"connect":0,"read":2,"write":0,"status":78,"timeout":0}}
"""


def test_the_summary_is_read() -> None:
    loop = parse_summary(OUTPUT)
    assert loop.answered == 5600
    assert loop.goodput_rps == pytest.approx(5600 / 2.001)
    latency = loop.latency
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (1.5, 2.5, 9.0)
    assert (latency.p999_ms, latency.max_ms) == (12.0, 15.0)


def test_errors_that_did_not_happen_are_left_out() -> None:
    assert parse_summary(OUTPUT).errors == {"read": 2, "status": 78}


def test_an_output_without_a_summary_is_an_error() -> None:
    with pytest.raises(ServerError, match="unable to connect"):
        parse_summary("unable to connect to 127.0.0.1:1 Connection refused")


def test_requests_are_written_as_the_script_reads_them(tmp_path: Path) -> None:
    body = b'{"x": "\xff\x00"}'
    write_requests(tmp_path, [HttpRequest("/a", b""), HttpRequest("/b", body, {"h": "v: w"})])
    assert (tmp_path / "0.head").read_text() == "/a\n"
    assert (tmp_path / "1.head").read_text() == "/b\nh: v: w\n"
    assert (tmp_path / "1.body").read_bytes() == body


def test_without_wrk_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ServerError, match="apt install wrk"):
        find_wrk()

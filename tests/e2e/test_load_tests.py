"""The load tests work: the shortest scenario, against a real system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.child import module_environment
from load_tests.servers.processes import descendants

CONTENDERS = {("json", c) for c in (1, 16, 64, 256)} | {("binary", c) for c in (1, 16, 64, 256)}


def load_tests(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "load_tests", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=module_environment(),
    )


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("wrk") is None and not os.environ.get("CI"), reason="needs wrk: apt install wrk"
)
def test_a_scenario_measures_a_real_system(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))
    arguments = ("--duration", "1", "--repeats", "1", "--out", str(tmp_path))
    done = load_tests("run", "tiny", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "tiny.json").read_text())
    (scenario,) = report["scenarios"]
    points = scenario["points"]
    assert {(point["encoding"], point["connections"]) for point in points} == CONTENDERS
    for point in points:
        assert point["answered"] > 0
        assert point["errors"] == {}
        assert {"gateway", "replica", "agent", "sync", "store"} <= set(point["cpu_us"])
        assert point["cpu_us"]["gateway"] > 0
        assert point["pss_mib"]["replica"] > 0
        latency = point["latency"]
        assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert report["machine"]["versions"]["penstock"]
    assert "| penstock | tiny | json | c=1 |" in (tmp_path / "tiny.md").read_text()
    assert (tmp_path / "tiny-throughput.png").stat().st_size > 0
    assert set(descendants(os.getpid())) == before


def test_the_command_line_explains_itself() -> None:
    listed = load_tests("list")
    assert listed.returncode == 0
    for name in ("tiny", "open_loop", "swap", "start", "all"):
        assert name in listed.stdout
    wrong = load_tests("run", "nothing")
    assert wrong.returncode == 2
    assert "open_loop" in wrong.stderr

"""The closed loop: wrk, whose every connection sends a request when it has the answer to the last.

It shows what a server can do with so many clients. It hides waiting: while a server stalls nobody
sends, so latencies under a fixed load are `open_loop`'s to tell.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.report.percentiles import Latency
from load_tests.server import HttpRequest, ServerError

SCRIPT = Path(__file__).with_name("wrk.lua")
SUMMARY = "wrk-summary: "

ANSWER_TIMEOUT_S = 20
"""A request that takes longer counts as failed; wrk's own default of 2 s is less than what a slow
peer takes to answer."""

EXIT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class ClosedLoop:
    """What wrk saw.

    Attributes:
        answered: requests with a status below 400.
        errors: by kind; only those that happened.
    """

    answered: int
    duration_s: float
    latency: Latency
    errors: Mapping[str, int]

    @property
    def goodput_rps(self) -> float:
        """Answered requests per second."""
        return self.answered / self.duration_s if self.duration_s else 0.0


def run_wrk(
    port: int,
    requests: Sequence[HttpRequest],
    connections: int,
    duration_s: float,
    *,
    threads: int = 1,
) -> ClosedLoop:
    """Load a server on this machine for so long.

    Raises:
        ServerError: if wrk is missing or fails.
    """
    wrk = find_wrk()
    with tempfile.TemporaryDirectory(prefix="penstock-wrk-") as name:
        write_requests(Path(name), requests)
        command = [
            *(wrk, "--threads", str(threads), "--connections", str(connections)),
            *("--duration", f"{max(1, round(duration_s))}s"),
            *("--timeout", f"{ANSWER_TIMEOUT_S}s", "--script", str(SCRIPT)),
            *(f"http://127.0.0.1:{port}", "--", name, str(len(requests))),
        ]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=duration_s + ANSWER_TIMEOUT_S + EXIT_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError("wrk did not end") from error
    if done.returncode != 0:
        raise ServerError(f"wrk failed: {(done.stderr or done.stdout)[-500:].strip()}")
    return parse_summary(done.stdout)


def find_wrk() -> str:
    """Its path.

    Raises:
        ServerError: if it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise ServerError("the closed loop needs wrk: apt install wrk")
    return path


def write_requests(folder: Path, requests: Sequence[HttpRequest]) -> None:
    """As wrk.lua reads them."""
    for index, request in enumerate(requests):
        lines = [request.path, *(f"{name}: {value}" for name, value in request.headers.items())]
        (folder / f"{index}.head").write_text("\n".join(lines) + "\n")
        (folder / f"{index}.body").write_bytes(request.body)


def parse_summary(text: str) -> ClosedLoop:
    """Read what wrk.lua printed.

    Raises:
        ServerError: if it is not there.
    """
    line = next((line for line in text.splitlines() if line.startswith(SUMMARY)), None)
    if line is None:
        raise ServerError(f"wrk printed no summary: {text[-500:].strip()}")
    summary = json.loads(line.removeprefix(SUMMARY))
    errors = {kind: count for kind, count in summary["errors"].items() if count}
    percentiles = (summary[f"{name}_us"] / 1000 for name in ("p50", "p90", "p99", "p999", "max"))
    return ClosedLoop(
        answered=summary["requests"] - errors.get("status", 0),
        duration_s=summary["duration_us"] / 1e6,
        latency=Latency(*percentiles),
        errors=errors,
    )

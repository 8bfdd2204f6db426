"""A real Prometheus for tests: the Debian package `prometheus` has it and promtool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import free_port

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"

CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: penstock
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
  - job_name: each
    static_configs: [{{targets: {targets}}}]
"""


def needs_prometheus() -> None:
    """Skip the test where Prometheus is not installed; in CI, fail it."""
    if shutil.which("prometheus") and shutil.which("promtool"):
        return
    reason = "prometheus and promtool are not installed (Debian: apt-get install prometheus)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def promtool(*arguments: str, page: str = "") -> str:
    """Run promtool to a good end; what it had to say."""
    done = subprocess.run(
        ["promtool", *arguments], input=page, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """A server with its own folder, on a free port of this machine.

    Args:
        port: of the sum of a system's metrics.
        each: ports of the processes' own.
    """

    def __init__(self, folder: Path, port: int, each: list[int]) -> None:
        targets = json.dumps([f"127.0.0.1:{port}" for port in each])
        config = folder / "prometheus.yml"
        config.write_text(
            CONFIG.format(rules=json.dumps(str(RULES / "rules.yml")), port=port, targets=targets)
        )
        self.url = f"http://127.0.0.1:{free_port()}"
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers; None while it does not."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return json.load(response)["data"]
        except OSError:
            return None

    def value(self, query: str) -> float | None:
        """The one value of a query; None if there is none (yet)."""
        data = self.get("query", query=query)
        if not data or not data["result"]:
            return None
        (result,) = data["result"]
        return float(result["value"][1])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

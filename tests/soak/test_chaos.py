"""A seeded run of everything: swaps, kills, pauses, restarts, bad input, and load all along.

`CHAOS_SEED=n CHAOS_S=600 make soak` replays a run. All the while each answer must be right for the
version that it names, and no request may fail but those whose own gateway was killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.load import Load
from tests.e2e.system import LocalSystem, alive, penstock
from tests.e2e.test_faults import BROKEN_OFF, child, replicas
from tests.e2e.test_swap import load_of
from tests.soak.demo_system import demo_system
from tests.support.waiting import wait_until

CLIENTS = 16
DURATION_S = float(os.environ.get("CHAOS_S", "600"))
SEED = int(os.environ.get("CHAOS_SEED", str(time.time_ns() % 1_000_000)))
RECOVERY_S = 60.0
"""Longest that any one fault may take to be made good."""

BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b'{"inputs": []}',
    b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": [NaN]}]}',
    b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 63], "data": [1]}]}',
    b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 64], "data": ["x"]}]}',
    b'{"inputs": [{"name": "other", "datatype": "FP32", "shape": [1, 64], "data": [1]}]}',
    b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [99999, 64], "data": [1]}]}',
    b"[" * 200_000,
    b"\xff\xfe" * 1000,
]


def running(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of some replicas whose processes run: what a worker told of its own lives for a while
    after both were killed."""
    return [replica for replica in found if alive(replica["pid"])]


class Chaos:
    """One run on one system."""

    def __init__(self, system: LocalSystem, load: Load, rng: random.Random) -> None:
        self._system = system
        self._load = load
        self._rng = rng
        self._client = MlflowClient(system.mlflow_uri)
        self.done: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        self._actions: dict[str, Callable[[], None]] = {
            "swap": self.swap,
            "kill replica": lambda: self.kill_replica(signal.SIGKILL),
            "pause replica": self.pause_replica,
            "kill worker": lambda: self.kill_child("worker"),
            "kill gateway": lambda: self.kill_child("gateway"),
            "kill registry-sync": lambda: self.kill_child("registry-sync"),
            "kill store": lambda: self.kill_child("valkey"),
            "kill mlflow": lambda: self.kill_child("mlflow"),
            "restart gateways": lambda: self.restart("gateways"),
            "restart workers": lambda: self.restart("workers"),
            "bad input": self.bad_input,
        }

    async def run(self, seconds: float) -> None:
        """Do one thing after the other, each made good before the next."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = self._rng.choice(sorted(self._actions))
            started = time.monotonic()
            await asyncio.to_thread(self._actions[name])
            await asyncio.to_thread(self.all_is_well, name)
            took = time.monotonic() - started
            self.done[name] += 1
            self.slowest[name] = max(self.slowest.get(name, 0.0), took)
            self.check(name)
            await asyncio.sleep(self._rng.uniform(0.0, 2.0))

    def check(self, after: str) -> None:
        """No failures but of requests whose own gateway was killed."""
        failures = [f for f in self._load.failures() if not f.startswith(BROKEN_OFF)]
        assert not failures, f"seed {SEED}, after {after}: {failures[:3]}"
        broken = len(self._load.failures())
        assert broken <= CLIENTS * self.done["kill gateway"], f"seed {SEED}, after {after}"

    def all_is_well(self, after: str) -> None:
        """Two replicas are ready, MLflow answers, and requests are answered."""
        what = f"seed {SEED}: the system is whole again after {after}"
        wait_until(lambda: len(self.ready()) == 2, RECOVERY_S, what)
        wait_until(self._system.mlflow_answers, RECOVERY_S, what)
        before = len(self._load.answers)
        wait_until(lambda: len(self._load.answers) > before + CLIENTS, RECOVERY_S, what)

    def ready(self) -> list[dict[str, Any]]:
        """Replicas that are ready; none while the store cannot be asked."""
        try:
            return running(replicas(self._system))
        except (AssertionError, ValueError):
            return []

    def swap(self) -> None:
        tags = self._client.get_model_version("digits", "2").tags
        role = "off" if tags.get("penstock.role") == "stable" else "stable"
        self._client.set_model_version_tag("digits", "2", "penstock.role", role)
        wanted = "2" if role == "stable" else "1"

        def serves() -> bool:
            status = self._client.get_model_version("digits", wanted).tags.get("penstock.status")
            return bool(status == "serving")

        wait_until(serves, RECOVERY_S, f"seed {SEED}: version {wanted} serves")

    def kill_replica(self, signum: int) -> None:
        found = self.ready()
        if found:
            os.kill(self._rng.choice(found)["pid"], signum)

    def pause_replica(self) -> None:
        pid = self._rng.choice(self.ready())["pid"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._rng.uniform(0.1, 5.0))  # what is tested is a pause of that length
        os.kill(pid, signal.SIGCONT)

    def kill_child(self, kind: str) -> None:
        names = sorted(self._system.system_file()["processes"])  # a restart numbers them anew
        name = self._rng.choice([name for name in names if name.startswith(kind)])
        pid = child(self._system, name)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), 10, f"{name} is gone")
        wait_until(lambda: child(self._system, name) != pid, RECOVERY_S, f"{name} is back")

    def restart(self, what: str) -> None:
        done = penstock("restart", what, "--data-dir", str(self._system.data_dir), timeout_s=120)
        assert done.returncode == 0, f"seed {SEED}: restart {what}: {done.stdout}{done.stderr}"

    def bad_input(self) -> None:
        asyncio.run(self._send_bad_input())

    async def _send_bad_input(self) -> None:
        url = f"{self._system.url}/v2/models/digits/infer"
        async with aiohttp.ClientSession() as session:
            for body in self._rng.choices(BAD_BODIES, k=20):
                async with session.post(url, data=body) as response:
                    assert 400 <= response.status < 500, (body[:80], response.status)


@pytest.mark.slow
@pytest.mark.timeout(DURATION_S + 600)
async def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with demo_system(tmp_path) as system:
        load = load_of(system, tmp_path)
        running = asyncio.create_task(load.run(CLIENTS))
        chaos = Chaos(system, load, random.Random(SEED))
        try:
            await chaos.run(DURATION_S)
        finally:
            load.stopped = True
            await running
        chaos.check("the end")
    with capsys.disabled():
        print(f"\nchaos: seed {SEED}, {DURATION_S:.0f} s, {len(load.answers)} requests, ", end="")
        print(f"{len(load.failures())} cut off by the death of their own gateway, 0 other failures")
        for name, count in sorted(chaos.done.items()):
            print(f"  {name:20} {count:4} times, whole again within {chaos.slowest[name]:5.1f} s")

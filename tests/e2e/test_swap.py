"""Versions change by tags under load: no request fails, and each answer is its version's own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import mlflow
import pytest
from mlflow.tracking import MlflowClient

from penstock.deploy.local.demo.digits import load_split
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.e2e.load import Direct, Load
from tests.e2e.system import LocalSystem

CLIENTS = 32
PAUSE_S = 0.05
PHASE_S = 5.0
SWAP_TIMEOUT_S = 40.0
SETTLE_S = 1.0
"""Around each flip, requests count as sent during a swap."""


class Operator:
    """Tags versions, and watches what the system makes of it."""

    def __init__(self, system: LocalSystem) -> None:
        self._client = MlflowClient(system.mlflow_uri)
        self.store = RedisStateStore(system.system_file()["redis_url"], Keys())
        self.routed: list[tuple[float, str]] = []
        self.ready: dict[str, list[float]] = {}
        self.retired: dict[str, list[float]] = {}

    def tag(self, version: str, role: str) -> None:
        self._client.set_model_version_tag("digits", version, "penstock.role", role)

    def status(self, version: str) -> str:
        return str(self._client.get_model_version("digits", version).tags.get("penstock.status"))

    async def watch(self) -> None:
        """Note since when the routing table may have changed its mind: since it was last asked."""
        last = time.time()
        while True:
            asked = time.time()
            table = await self.store.routing()
            route = table.models.get("digits")
            version = route.versions[0].version if route and route.versions else ""
            if not self.routed or self.routed[-1][1] != version:
                self.routed.append((last, version))
            last = asked
            await asyncio.sleep(0.01)

    async def swap(self, version: str, tags: dict[str, str], load: Load) -> None:
        """Set tags and wait until the version serves and the other one is retired."""
        for tagged, role in tags.items():
            await asyncio.to_thread(self.tag, tagged, role)
        async with asyncio.timeout(SWAP_TIMEOUT_S):
            while self.routed[-1][1] != version:
                await asyncio.sleep(0.02)
            other = "1" if version == "2" else "2"
            while await asyncio.to_thread(self.status, other) not in ("retired", "superseded"):
                assert not load.failures(), load.failures()[:3]
                await asyncio.sleep(0.1)
        self.retired.setdefault(other, []).append(time.time())


@contextlib.asynccontextmanager
async def watching(operator: Operator) -> AsyncIterator[None]:
    task = asyncio.create_task(operator.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await operator.store.close()


def load_of(system: LocalSystem, tmp_path: Path, pause_s: float = 0.0) -> Load:
    mlflow.set_tracking_uri(system.mlflow_uri)
    images = load_split().test_images
    expected = {}
    for version in ("1", "2"):
        folder = mlflow.artifacts.download_artifacts(
            f"models:/digits/{version}", dst_path=str(tmp_path / version)
        )
        expected[version] = Direct(f"{folder}/model.onnx").probabilities(images)
    return Load(system.url, images, expected, pause_s)


def check_times(load: Load, operator: Operator) -> None:
    """No answer of a version from before it was routed, or sent after it was retired."""
    for answer in load.answers:
        routed = [when for when, version in operator.routed if version == answer.version]
        assert any(answer.ended >= when for when in routed), answer
        for retired in operator.retired.get(answer.version, []):
            back = [when for when in routed if when > retired]
            gone_until = back[0] if back else float("inf")
            in_between = retired < answer.started and answer.ended < gone_until
            assert not in_between, f"{answer} came from a retired version"


@pytest.mark.timeout(240)
async def test_three_swaps_under_load(
    demo_system: LocalSystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = load_of(demo_system, tmp_path, PAUSE_S)
    operator = Operator(demo_system)
    operator.tag("1", "stable")
    operator.tag("2", "off")
    async with watching(operator):
        await asyncio.sleep(0.1)
        running = asyncio.create_task(load.run(CLIENTS))
        started = time.time()
        await asyncio.sleep(PHASE_S)
        for version, tags in (
            ("2", {"2": "stable"}),
            ("1", {"2": "off"}),
            ("2", {"2": "stable"}),
        ):
            await operator.swap(version, tags, load)
            await asyncio.sleep(PHASE_S)
        load.stopped = True
        await running
    flips = [when for when, _ in operator.routed[1:]]
    assert time.time() - started >= 20.0
    assert [version for _, version in operator.routed] == ["1", "2", "1", "2"]
    assert load.failures() == []
    assert load.versions() == {"1", "2"}
    check_times(load, operator)

    def swapping(moment: float) -> bool:
        return any(abs(moment - flip) < SETTLE_S for flip in flips)

    during = load.percentile_ms(99, lambda answer: swapping(answer.ended))
    calm = load.percentile_ms(99, lambda answer: not swapping(answer.ended))
    with capsys.disabled():
        print(
            f"\nswap under load: {len(load.answers)} requests, 0 failed, "
            f"p99 {during:.1f} ms within {SETTLE_S:.0f} s of a flip, {calm:.1f} ms otherwise"
        )

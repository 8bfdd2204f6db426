"""Clients, gateways and workers that leave, again and again; nothing is lost, nothing gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from tests.e2e.folder import Multiplying, folder_system
from tests.e2e.system import LocalSystem, penstock
from tests.e2e.test_restart import until_two_can_be_called
from tests.fault.gateway_process import gateway_process
from tests.fault.test_disconnects import GROWTH_BYTES_MAX, crowd_leaves, footprint
from tests.support import mlflow_models as models
from tests.support.models import affine

CROWDS = 30
WARM_CROWDS = 3
RESTARTS = 8
SCALE = 3.0
CLIENTS = 16


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_thirty_thousand_clients_that_leave_midway(tmp_path: Path) -> None:
    folder = models.napping(tmp_path / "m")
    settings = ReplicaSettings(threads=1, max_batch_size=512)
    async with gateway_process() as gateway:
        (replica,) = await gateway.joined(folder, settings=settings)
        pids = (gateway.process.pid, replica.process.pid)
        for _ in range(WARM_CROWDS):
            await crowd_leaves(gateway, replica, 0)
        before = [footprint(pid) for pid in pids]
        for _ in range(CROWDS - WARM_CROWDS):
            await crowd_leaves(gateway, replica, 0)
        after = [footprint(pid) for pid in pids]
    for then, now in zip(before, after, strict=True):
        grown = now.resident_bytes - then.resident_bytes
        assert grown < GROWTH_BYTES_MAX
        assert abs(now.descriptors - then.descriptors) < 10
        print(f"{CROWDS} crowds: {grown / 1024:.0f} KiB more")


@pytest.fixture
def wide_system(tmp_path: Path) -> Iterator[LocalSystem]:
    """Two gateways, two workers, two replicas."""
    system = folder_system(tmp_path, "--gateways", "2", "--workers", "2")
    affine(tmp_path / "models" / "m" / "1", SCALE)
    (tmp_path / "models" / "m" / "tags.yaml").write_text("penstock.replicas: 2\n")
    try:
        system.start()
        asyncio.run(until_two_can_be_called(system))
        yield system
    finally:
        assert system.stop() == 0, system.output


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_restarts_of_gateways_and_workers_in_turn(wide_system: LocalSystem) -> None:
    kept = Multiplying(wide_system.url, "m", {SCALE}, pause_s=0.01)
    fresh = Multiplying(wide_system.url, "m", {SCALE}, pause_s=0.03, keep=False)
    running = asyncio.gather(kept.run(CLIENTS), fresh.run(CLIENTS // 4))
    for _ in range(RESTARTS):
        for part in ("gateways", "workers"):
            done = await asyncio.to_thread(
                penstock, "restart", part, "--data-dir", str(wide_system.data_dir), timeout_s=180.0
            )
            assert done.returncode == 0, done.stderr
            assert kept.failures + fresh.failures == []
    kept.stopped = fresh.stopped = True
    await running
    assert kept.failures + fresh.failures == []
    requests = kept.answered[SCALE] + fresh.answered[SCALE]
    print(f"{2 * RESTARTS} restarts, {requests} requests, 0 failed")

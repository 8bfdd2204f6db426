"""`penstock restart`: gateways, workers and registry_sync are replaced under load."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.e2e.folder import Multiplying, folder_system
from tests.e2e.routing import until_routed
from tests.e2e.system import LocalSystem, alive, penstock
from tests.support.models import affine
from tests.support.waiting import wait_until

CLIENTS = 12
SCALE = 3.0
RESTART_TIMEOUT_S = 180.0
READY_TIMEOUT_S = 80.0


@pytest.fixture(scope="module")
def wide_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    """Two gateways, two workers, and two replicas of one model spread over them."""
    base = tmp_path_factory.mktemp("wide")
    system = folder_system(base, "--gateways", "2", "--workers", "2")
    affine(base / "models" / "m" / "1", SCALE)
    (base / "models" / "m" / "tags.yaml").write_text("penstock.replicas: 2\n")
    processes: set[int] = set()
    try:
        system.start()
        asyncio.run(until_two_can_be_called(system))
        yield system
        processes = system.processes()
    finally:
        exit_code = system.stop(signal.SIGINT)
    assert exit_code == 0, system.output
    assert not any(map(alive, processes))


async def until_two_can_be_called(system: LocalSystem) -> None:
    """Wait until every gateway sees both replicas, no more, and routes to them."""
    store = RedisStateStore(system.system_file()["redis_url"], Keys())
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while [sum(each.ready.values()) for each in await store.gateways()] != [2, 2]:
                await asyncio.sleep(0.1)
        await until_routed(store, READY_TIMEOUT_S)
    finally:
        await store.close()


def processes_of(system: LocalSystem, kind: str) -> dict[str, int]:
    """Names and pids of the processes of one kind."""
    processes = system.system_file()["processes"]
    return {name: pid for name, pid in processes.items() if name.startswith(f"{kind}-")}


def restart(system: LocalSystem, word: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    data_dir = str(system.data_dir)
    return penstock("restart", word, "--data-dir", data_dir, timeout_s=RESTART_TIMEOUT_S)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("word", "kind"),
    [("gateways", "gateway"), ("workers", "worker")],
)
async def test_a_restart_under_load_fails_no_request(
    wide_system: LocalSystem, capsys: pytest.CaptureFixture[str], word: str, kind: str
) -> None:
    before = processes_of(wide_system, kind)
    processes = len(wide_system.processes())
    load = Multiplying(wide_system.url, "m", {SCALE}, pause_s=0.1)
    fresh = Multiplying(wide_system.url, "m", {SCALE}, pause_s=0.1, keep=False)
    running = asyncio.gather(load.run(CLIENTS), fresh.run(CLIENTS // 3))
    await asyncio.sleep(0.5)
    began = time.monotonic()
    restarting = asyncio.create_task(asyncio.to_thread(restart, wide_system, word))
    done = await restarting
    took_s = time.monotonic() - began
    await asyncio.sleep(0.5)
    load.stopped = fresh.stopped = True
    await running
    assert load.failures == []
    assert fresh.failures == []
    assert done.returncode == 0, done.stderr
    assert all(f"{name}: ended" in done.stdout for name in before)
    after = processes_of(wide_system, kind)
    assert len(after) == len(before)
    assert all(alive(pid) for pid in after.values())
    assert not any(alive(pid) for pid in before.values())
    await until_two_can_be_called(wide_system)
    wait_until(lambda: len(wide_system.processes()) == processes, 10, "nothing is left behind")
    with capsys.disabled():
        requests = load.answered[SCALE] + fresh.answered[SCALE]
        print(f"\nrestart {word}: {took_s:.1f} s, {requests} requests, 0 failed")


async def test_one_restart_at_a_time(wide_system: LocalSystem) -> None:
    two = [asyncio.to_thread(restart, wide_system, "registry-sync") for _ in range(2)]
    first, second = sorted(await asyncio.gather(*two), key=lambda done: done.returncode)
    assert first.returncode == 0, first.stderr
    assert second.stderr == "penstock: restart failed: another restart is under way\n"


async def test_a_successor_that_does_not_start_changes_nothing(wide_system: LocalSystem) -> None:
    before = processes_of(wide_system, "gateway")
    runtime = Path(wide_system.system_file()["restart_socket"]).parent
    in_the_way = [runtime / f"gateway-{number}.ipc" for number in range(4)]
    blocked = [path for path in in_the_way if not path.exists()]
    for path in blocked:
        path.mkdir()
    try:
        done = await asyncio.to_thread(restart, wide_system, "gateways")
    finally:
        for path in blocked:
            path.rmdir()
    assert done.returncode == 1
    assert "ended while it started" in done.stderr
    assert "cannot bind ipc://" in done.stderr
    assert processes_of(wide_system, "gateway") == before
    assert all(alive(pid) for pid in before.values())


def test_without_a_system_it_is_one_line(tmp_path: Path) -> None:
    done = penstock("restart", "gateways", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"penstock: nothing runs on {tmp_path}")
    assert len(done.stderr.splitlines()) == 1

"""A network that stalls, resets and delays between gateway and replicas: all calls resolve."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.messages import GatewayAddress, LoadFailed, Ready
from tests.fault.calls import OpenCalls
from tests.fault.proxy import Proxy, proxy
from tests.support import models
from tests.support.data_plane import DataPlane, data_plane
from tests.support.waiting import eventually

pytestmark = pytest.mark.alone

SEED = 20
SCALE = 3.0
RATE = 100.0
TIMEOUT_S = 1.5
"""Much more than a short stall, and less than a long one."""

REPLICAS = 2
SETTLE_S = 0.5
RECOVERY_S_MAX = 15.0
"""From the end of a fault until both replicas can be called: a link is dialled anew after 5 s of
silence, and a connection attempt gives up after 2 s."""


@dataclass
class BadNetwork:
    """A service, replicas that reach it through a proxy only, and what was done to that."""

    plane: DataPlane
    proxy: Proxy
    phases: list[tuple[str, float, float]] = field(default_factory=list)

    async def phase(
        self, name: str, fault: Callable[[Proxy], Awaitable[None]], calls: OpenCalls
    ) -> None:
        """Let a fault happen, then wait until both replicas can be called again, and are."""
        began = time.monotonic()
        await fault(self.proxy)
        ended = time.monotonic()
        self.phases.append((name, began, ended))
        await eventually(self.is_whole, RECOVERY_S_MAX)
        whole = time.monotonic()
        self.phases.append((f"after {name}", ended, whole))
        await asyncio.sleep(SETTLE_S)
        settled = time.monotonic()
        self.phases.append(("whole again", whole, settled))
        # What was sent until then is answered before the next fault can meet it.
        await eventually(lambda: all(call.outcomes for call in calls.between(whole, settled)))

    def is_whole(self) -> bool:
        """Whether both replicas can be called."""
        return sum(self.plane.service.ready_counts().values()) == REPLICAS


@asynccontextmanager
async def bad_network(folder: Path, seed: int) -> AsyncIterator[BadNetwork]:
    """Two replicas behind a proxy."""
    models.affine(folder, SCALE)
    async with (
        data_plane(endpoint="tcp://127.0.0.1:*") as plane,
        proxy(await bound(plane), seed) as between,
    ):
        address = GatewayAddress(gateway="g", endpoint=f"tcp://127.0.0.1:{between.port}")
        for _ in range(REPLICAS):
            plane.spawn(folder, gateways=(address,), settings=ReplicaSettings(threads=1))
        for child in plane.children:
            message = await asyncio.to_thread(child.hear, (Ready, LoadFailed))
            assert isinstance(message, Ready), message
        network = BadNetwork(plane, between)
        await eventually(network.is_whole)
        yield network


async def bound(plane: DataPlane) -> str:
    """The service's endpoint with its port, once there is one."""
    await asyncio.sleep(0)  # the service binds in its first turn
    return plane.service.endpoint


async def calm(_: Proxy) -> None:
    await asyncio.sleep(1.0)


async def jitter(network: Proxy) -> None:
    network.faults.jitter_s = 0.05
    await asyncio.sleep(2.0)
    network.faults.jitter_s = 0.0


async def narrow(network: Proxy) -> None:
    network.faults.bytes_per_s = 200_000
    await asyncio.sleep(1.0)
    network.faults.bytes_per_s = 0.0


async def stall(network: Proxy, seconds: float) -> None:
    network.stall()
    await asyncio.sleep(seconds)
    network.flow()


async def short_stall(network: Proxy) -> None:
    await stall(network, 0.5)


async def long_stall(network: Proxy) -> None:
    """Longer than either side takes a silent connection for alive."""
    await stall(network, 4.0)


async def resets(network: Proxy) -> None:
    for _ in range(8):
        network.reset()
        await asyncio.sleep(0.25)


async def refusal(network: Proxy) -> None:
    """Connections break, and cannot be made anew."""
    network.faults.refusing = True
    network.reset()
    await asyncio.sleep(1.5)
    network.faults.refusing = False


UNHARMFUL = ("calm", "jitter", "narrow", "short stall", "whole again")
"""Phases in which no call may fail: what delays less than the deadline fails nothing."""

FAULTS = (jitter, narrow, short_stall, long_stall, resets, refusal)


async def suffer(folder: Path, rounds: int, seed: int) -> None:
    """All faults in turn under load; all calls resolve once, by their deadlines, and rightly."""
    print(f"seed {seed}")
    async with bad_network(folder, seed) as network:
        calls = OpenCalls(network.plane.service, RATE, TIMEOUT_S, seed)
        sending = asyncio.create_task(calls.run(1000.0))
        for _ in range(rounds):
            for fault in (calm, *FAULTS, calm):
                await network.phase(fault.__name__.replace("_", " "), fault, calls)
        calls.stop()
        await sending
        for call in calls.sent:
            call.check(SCALE)
        assert network.plane.service.open_calls() == {}
        assert all(child.process.poll() is None for child in network.plane.children)
        assert network.proxy.resets >= 8 * 2 * REPLICAS * rounds, "both ends of each connection"
    for name, began, ended in network.phases:
        codes = Counter(call.code for call in calls.between(began, ended))
        ok = codes.pop(None, 0)
        failed = ", ".join(f"{count} {code}" for code, count in codes.items()) or "0 failed"
        print(f"  {name:20} {ended - began:5.1f} s: {ok:4} answered, {failed}")
        if name in UNHARMFUL:
            assert not codes, f"{name}: {codes}"


async def test_calls_resolve_once_and_by_their_deadline_whatever_the_network_does(
    tmp_path: Path,
) -> None:
    await suffer(tmp_path / "m", 1, SEED)


@pytest.mark.slow
async def test_calls_resolve_on_a_network_that_stays_bad(tmp_path: Path) -> None:
    await suffer(tmp_path / "m", 10, SEED + 1)

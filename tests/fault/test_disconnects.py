"""A thousand clients that leave midway: their calls leave everything, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.messages import Heartbeat
from tests.fault.connections import infer_request
from tests.fault.gateway_process import GatewayProcess, gateway_process
from tests.support.data_plane import ReplicaChild

EXECUTING = 450
QUEUED = 450
HALF_SENT = 100
CLIENTS = EXECUTING + QUEUED + HALF_SENT
SETTINGS = ReplicaSettings(threads=1, max_batch_size=512)

PLUG_MS = 700.0
LONG_MS = 4000.0
EMPTY_S = 2.5
LATE_S = 5.0
"""What a busy machine may add to a time before it is wrong."""

GROWTH_BYTES_MAX = 16 * 1024 * 1024
OPEN = "penstock_gateway_open_calls"
CANCELLED = "penstock_dispatch_cancels_total"


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    descriptors: int
    resident_bytes: int


def footprint(pid: int) -> Footprint:
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Footprint(descriptors, pages * os.sysconf("SC_PAGE_SIZE"))


async def beat_of(replica: ReplicaChild) -> Heartbeat:
    """What the replica says now."""
    replica.forget()
    beat = await asyncio.to_thread(replica.hear, Heartbeat)
    assert isinstance(beat, Heartbeat)
    return beat


@asynccontextmanager
async def bystander(gateway: GatewayProcess) -> AsyncIterator[None]:
    """A client that stays, and asks one thing after the other."""
    connection, stopped, answered = await gateway.connect(), asyncio.Event(), 0

    async def ask() -> None:
        nonlocal answered
        while not stopped.is_set():
            answer = await connection.ask(1.0)
            assert answer.status == 200
            assert answer.number == 1.0
            answered += 1

    asking = asyncio.create_task(ask())
    yield
    stopped.set()
    await asking
    assert answered >= 3
    connection.leave()


async def crowd_leaves(gateway: GatewayProcess, replica: ReplicaChild, others: int) -> None:
    """So many clients come, some wait, some are being served, some still send; all leave.

    Args:
        others: clients with a call each that stay.
    """
    cancelled = await gateway.metric(CANCELLED)
    plug, *clients = await gateway.connections(CLIENTS + 1)
    used, half_sent = clients[HALF_SENT:], clients[:HALF_SENT]
    await asyncio.gather(*[client.ask(0.0) for client in used])  # connections that are kept
    plug.send(PLUG_MS)
    await gateway.metric_is(OPEN, 1, above=others)
    for number, client in enumerate(used[:EXECUTING]):
        client.send(LONG_MS, chunked=number % 2 == 0)
    assert (await plug.answer()).status == 200
    while (await beat_of(replica)).executing_rows < EXECUTING:
        pass
    for number, client in enumerate(used[EXECUTING:]):
        client.send(LONG_MS, chunked=number % 2 == 0)
    for number, client in enumerate(half_sent):
        client.writer.write(infer_request(LONG_MS, chunked=number % 2 == 0)[:-9])
    await gateway.metric_is(OPEN, EXECUTING + QUEUED, above=others)
    for client in [plug, *clients]:
        client.leave()
    left = time.monotonic()
    await gateway.metric_is(OPEN, 0, EMPTY_S, above=others)
    beat = await beat_of(replica)
    while beat.queued_rows > others:
        beat = await beat_of(replica)
    assert time.monotonic() - left < EMPTY_S + 0.5, "a heartbeat comes twice a second"
    while beat.executing_rows > others:
        beat = await beat_of(replica)
    assert time.monotonic() - left < LONG_MS / 1000 + EMPTY_S + 0.5, "nothing that waited ran"
    assert await gateway.metric(CANCELLED) - cancelled == EXECUTING + QUEUED
    assert await gateway.metric("penstock_gateway_requests_in_flight") <= others


@pytest.mark.timeout(150)  # 25 s alone, some 60 beside other modules
async def test_a_thousand_clients_that_leave_midway_leave_no_trace(napping: Path) -> None:
    async with gateway_process() as gateway:
        (replica,) = await gateway.joined(napping, settings=SETTINGS)
        pids = (gateway.process.pid, replica.process.pid)
        alone = [footprint(pid) for pid in pids]
        await crowd_leaves(gateway, replica, 0)
        before = [footprint(pid) for pid in pids]
        async with bystander(gateway):
            await crowd_leaves(gateway, replica, 1)
        after = [footprint(pid) for pid in pids]
        while [each.descriptors for each in after] != [each.descriptors for each in alone]:
            await asyncio.sleep(0.1)  # the last connections were closed just now
            after = [footprint(pid) for pid in pids]
        for then, now in zip(before, after, strict=True):
            assert now.resident_bytes - then.resident_bytes < GROWTH_BYTES_MAX
        beat = await beat_of(replica)
        assert beat.cancelled == 2 * (EXECUTING + QUEUED)
        clients = await gateway.connections(64)
        began = time.monotonic()
        answers = await asyncio.gather(*[client.ask(20.0) for client in clients])
        assert [answer.status for answer in answers] == [200] * 64
        assert time.monotonic() - began < LATE_S
        assert gateway.process.poll() is None

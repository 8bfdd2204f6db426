"""A large body is read some at a time, so that other connections have their turn between."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from penstock.gateway.http.server.connection import PatientFlow


class FakeTransport:
    """Notes whether it reads."""

    def __init__(self) -> None:
        self.reads = True
        self.closing = False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def is_closing(self) -> bool:
        return self.closing


def flow_of(transport: FakeTransport, waiting: deque[Any] | None = None) -> PatientFlow:
    return PatientFlow(cast(asyncio.Transport, transport), deque() if waiting is None else waiting)


async def test_it_reads_on_in_the_next_turn() -> None:
    transport = FakeTransport()
    flow_of(transport).read_no_more_in_this_turn()
    assert not transport.reads
    await asyncio.sleep(0)
    assert transport.reads


async def test_what_was_paused_meanwhile_stays_paused() -> None:
    transport = FakeTransport()
    flow = flow_of(transport)
    flow.read_no_more_in_this_turn()
    flow.pause_reading()
    await asyncio.sleep(0)
    assert not transport.reads
    flow.resume_reading()
    assert transport.reads


async def test_what_was_paused_before_stays_paused() -> None:
    transport = FakeTransport()
    flow = flow_of(transport)
    flow.pause_reading()
    flow.read_no_more_in_this_turn()
    await asyncio.sleep(0)
    assert not transport.reads


async def test_what_closes_is_not_read_on() -> None:
    transport = FakeTransport()
    flow_of(transport).read_no_more_in_this_turn()
    transport.closing = True
    await asyncio.sleep(0)
    assert not transport.reads

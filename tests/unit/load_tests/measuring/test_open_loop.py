"""The load generator against real servers on this machine, which stall, refuse, or hang up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from load_tests.generator.load_plan import LoadPlan, Outcomes
from load_tests.measuring.open_loop import run_plan_beside
from load_tests.report.percentiles import percentile
from load_tests.server import ServerError

pytestmark = pytest.mark.costly

REQUEST = b"POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
REFUSED = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
STALL_S = 0.8

Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[int]:
    """A server that reads requests, and lets `answer` answer the n-th; its port."""
    count = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                count += 1
                await answer(writer, count)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()


async def load(port: int, rate_rps: float, connections: int, **options: float) -> Outcomes:
    plan = LoadPlan(
        port=port,
        requests=[REQUEST],
        duration_s=2.0,
        rate_rps=rate_rps,
        connections=connections,
        drain_s=options.get("drain_s", 10.0),
    )
    return await asyncio.to_thread(run_plan_beside, plan)


def stalling_at(nth: int) -> Answer:
    """Answers at once, but the n-th request stops the whole server for a while."""

    async def answer(writer: asyncio.StreamWriter, count: int) -> None:
        if count == nth:
            time.sleep(STALL_S)  # noqa: ASYNC251 - so that nobody is served meanwhile
        writer.write(OK)

    return answer


@pytest.mark.parametrize("connections", [2, 256])
async def test_a_stall_is_seen_by_all_who_came_meanwhile(connections: int) -> None:
    async with server(stalling_at(100)) as port:
        outcomes = await load(port, 200, connections)
    assert outcomes.errors() == {}
    came_meanwhile = STALL_S / 2.0
    slow = (outcomes.latency_ms > 0.1 * STALL_S * 1000).mean()
    assert slow > came_meanwhile / 2
    assert outcomes.latency().p99_ms > 0.7 * STALL_S * 1000


async def test_a_closed_loop_hides_the_same_stall() -> None:
    async with server(stalling_at(100)) as port:
        outcomes = await load(port, 0, connections=1)
    assert (outcomes.latency_ms > 0.5 * STALL_S * 1000).sum() == 1
    assert percentile(outcomes.latency_ms, 90) < STALL_S * 1000 / 2


async def test_failures_are_told_apart() -> None:
    async def answer(writer: asyncio.StreamWriter, count: int) -> None:
        if count % 10 == 3:
            writer.write(REFUSED)
        elif count % 10 == 5:
            writer.close()
        elif count % 10 != 7:
            writer.write(OK)

    async with server(answer) as port:
        outcomes = await load(port, 100, connections=256, drain_s=0.5)
    errors = outcomes.errors()
    assert set(errors) == {"status 503", "connection lost", "unanswered"}
    assert sum(errors.values()) + outcomes.answered == len(outcomes.kind)
    assert outcomes.answered == pytest.approx(0.7 * len(outcomes.kind), abs=5)


async def test_an_answer_that_ends_its_connection_is_an_answer() -> None:
    async def answer(writer: asyncio.StreamWriter, count: int) -> None:
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
        writer.close()

    async with server(answer) as port:
        outcomes = await load(port, 100, connections=8)
    assert outcomes.errors() == {}


async def test_nobody_listens() -> None:
    async with server(stalling_at(0)) as port:
        pass
    with pytest.raises(ServerError, match="load generator failed"):
        await load(port, 100, connections=8)

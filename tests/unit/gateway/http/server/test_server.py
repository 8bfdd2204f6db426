"""A server that leaves answers every request of a connection that it has not announced to close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from starlette.types import Receive, Scope, Send

from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.http.server import connection as graceful_connection
from penstock.gateway.http.server.connection import DrainState
from penstock.gateway.http.server.server import GracefulServer

QUIET_S = 0.4
REQUEST = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW_REQUEST = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
WATCHING_REQUEST = b"GET /watch HTTP/1.1\r\nHost: x\r\n\r\n"
READ_BYTES_MAX = 256 * 1024
"""Most that the event loop takes off a connection at a time."""


@dataclass
class Running:
    """A server and the way to its clients' end."""

    server: GracefulServer
    port: int
    release: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    pipelined_max: int = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers `/quick` at once, all else once released; for `/watch`, notes who leaves."""
        waiting = [len(each.pipeline) for each in self.server.server_state.connections]  # type: ignore[union-attr]
        self.pipelined_max = max(self.pipelined_max, *waiting)
        await receive()
        if scope["path"] != "/quick":
            self.asked.set()
            await self.release.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["path"] == "/watch":
            for part in (b"o", b"k"):  # the first that is sent to nobody does not fail yet
                await send({"type": "http.response.body", "body": part, "more_body": True})
                await asyncio.sleep(0.05)
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left.set()
        await send({"type": "http.response.body", "body": b"ok"})

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def leave(self) -> None:
        """Tell it to leave, and wait until it does."""
        self.server.should_exit = True
        while self.server.servers[0].is_serving():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(grace_s: float = 5.0, keep_alive_s: float = 5.0) -> AsyncIterator[Running]:
    listener = socket.create_server(("127.0.0.1", 0))
    holder: list[Running] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await holder[0].app(scope, receive, send)

    bounds = ClientBounds(keep_alive_s=keep_alive_s)
    server = GracefulServer(app, DrainState(quiet_s=QUIET_S, grace_s=grace_s), bounds=bounds)
    holder.append(Running(server, listener.getsockname()[1]))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield holder[0]
    server.should_exit = True
    await asyncio.wait_for(task, 5)


async def answer(reader: asyncio.StreamReader) -> bytes:
    """The head of an answer; its body is read too."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert await reader.readexactly(2) == b"ok"
    return head.lower()


async def test_an_idle_connection_is_answered_once_more_and_told_so() -> None:
    async with running() as web:
        reader, writer = await web.connect()
        writer.write(REQUEST)
        assert b"connection: close" not in await answer(reader)
        await web.leave()
        await asyncio.sleep(QUIET_S / 2)
        writer.write(REQUEST)
        assert b"connection: close" in await answer(reader)
        assert await reader.read() == b""


async def test_a_quiet_connection_is_closed_and_the_server_ends() -> None:
    async with running() as web:
        reader, _ = await web.connect()
        unused, _ = await web.connect()
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await web.leave()
        assert await reader.read() == b""
        assert await unused.read() == b""
        assert QUIET_S - 0.05 < time.monotonic() - began < QUIET_S + 3.0


async def test_what_is_under_way_is_answered_with_a_word_of_leave() -> None:
    async with running() as web:
        reader, writer = await web.connect()
        writer.write(SLOW_REQUEST)
        await web.asked.wait()
        await web.leave()
        await asyncio.sleep(2 * QUIET_S)
        web.release.set()
        assert b"connection: close" in await answer(reader)
        assert await reader.read() == b""


async def test_of_pipelined_requests_the_last_answer_is_the_one_that_closes() -> None:
    async with running() as web:
        reader, writer = await web.connect()
        writer.write(SLOW_REQUEST)
        await web.asked.wait()
        await web.leave()
        writer.write(REQUEST + REQUEST)
        await asyncio.sleep(0.05)
        web.release.set()
        closing = [b"connection: close" in await answer(reader) for _ in range(3)]
        assert closing == [False, False, True]


async def test_no_more_requests_wait_on_a_connection_than_came_at_once() -> None:
    async with running() as web:
        reader, writer = await web.connect()
        count = 10 * READ_BYTES_MAX // len(REQUEST)
        writer.write(REQUEST * count + SLOW_REQUEST)
        while not web.asked.is_set():
            await reader.read(READ_BYTES_MAX)
        assert web.pipelined_max <= READ_BYTES_MAX // len(REQUEST) + 1
        web.release.set()
        writer.close()


async def test_who_leaves_with_requests_waiting_is_known_to_have_left() -> None:
    async with running() as web:
        _, writer = await web.connect()
        writer.write(WATCHING_REQUEST + REQUEST)
        await web.asked.wait()
        writer.transport.abort()
        web.release.set()
        await asyncio.wait_for(web.left.wait(), 5)


async def test_a_connection_is_kept_as_long_as_the_setting_says() -> None:
    async with running(keep_alive_s=2.0) as web:
        reader, writer = await web.connect()
        for _ in range(3):
            writer.write(REQUEST)
            assert b"200 ok" in await answer(reader)
            await asyncio.sleep(0.3)
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_head_is_waited_for_no_longer_where_connections_are_kept_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graceful_connection, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(graceful_connection, "LOOK_S", 0.1)
    async with running(keep_alive_s=3600.0) as web:
        reader, writer = await web.connect()
        writer.write(REQUEST)
        assert b"200 ok" in await answer(reader)
        writer.write(REQUEST[:10])
        assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_who_brings_no_head_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graceful_connection, "HEAD_TIMEOUT_S", 0.3)
    async with running() as web:
        silent, _ = await web.connect()
        slow, writer = await web.connect()

        async def trickle() -> None:
            for byte in REQUEST * 20:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert await asyncio.wait_for(silent.read(), 5) == b""
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(slow.read(), 5) == b""
        trickling.cancel()


async def test_half_a_head_behind_a_slow_request_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graceful_connection, "HEAD_TIMEOUT_S", 1.0)
    async with running() as web:
        reader, writer = await web.connect()
        writer.write(SLOW_REQUEST + REQUEST[:20])
        await web.asked.wait()
        await asyncio.sleep(1.5)
        web.release.set()
        assert b"200 ok" in await answer(reader)
        writer.write(REQUEST[20:])
        assert b"200 ok" in await answer(reader)


async def test_new_connections_are_not_accepted() -> None:
    async with running() as web:
        await web.leave()
        with pytest.raises(ConnectionRefusedError):
            await web.connect()


async def given_up(reader: asyncio.StreamReader) -> None:
    """The answer of a server that has no time left, and nothing after it."""
    everything = (await asyncio.wait_for(reader.read(), 5)).lower()
    assert everything.startswith(b"http/1.1 503 ")
    assert b"connection: close" in everything
    assert b"retry-after: " in everything
    assert everything.count(b"http/1.1") == 1


async def test_who_is_still_owed_an_answer_when_the_grace_ends_is_told_so() -> None:
    async with running(grace_s=1.0) as web:
        reader, writer = await web.connect()
        writer.write(SLOW_REQUEST)
        await web.asked.wait()
        web.server.leave(0.0)
        assert web.server.leaving
        await given_up(reader)
        web.release.set()


async def test_in_a_hurry_nobody_is_waited_for() -> None:
    async with running(grace_s=60.0) as web:
        idle, _ = await web.connect()
        reader, writer = await web.connect()
        writer.write(SLOW_REQUEST)
        await web.asked.wait()
        web.server.leave(60.0)
        web.server.hurry()
        await given_up(reader)
        assert await idle.read() == b""
        web.release.set()


async def test_connections_are_accepted_while_it_waits_to_leave() -> None:
    async with running() as web:
        web.server.leave(QUIET_S)
        await asyncio.sleep(QUIET_S / 2)
        reader, writer = await web.connect()
        writer.write(REQUEST)
        await answer(reader)
        await web.leave()

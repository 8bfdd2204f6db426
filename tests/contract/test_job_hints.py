"""Hints over a network that takes everything and gives nothing back: its far end has vanished."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from penstock.shared.jobs.blocking_store import BlockingWakeUp
from penstock.shared.jobs.news import JobNews
from penstock.shared.store.keys import Keys
from penstock.shared.store.state import RedisStateStore
from tests.contract.redis_server import Server

KEYS = Keys("hints")
SILENCE_S = 0.3
PATIENCE_S = 20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        running = Server(Path(folder))
        running.start()
        yield running
        running.kill()


class Network:
    """Carries bytes between clients and a server."""

    def __init__(self, server_socket: str) -> None:
        self._server_socket = server_socket
        self._gone: list[asyncio.Event] = []
        self.connections = 0
        self.dead = False
        """Whether new connections are taken, and nothing ever comes through them."""

    def vanish(self) -> None:
        """From now on nothing comes through what is connected; new connections work."""
        for gone in self._gone:
            gone.set()

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection's bytes until its client closes it."""
        self.connections += 1
        self._gone.append(gone := asyncio.Event())
        if self.dead:
            gone.set()
        there, back = await asyncio.open_unix_connection(self._server_socket)
        answers = asyncio.create_task(_carry(there, writer, gone))
        await _carry(reader, back, gone)
        answers.cancel()
        for each in (writer, back):
            each.close()


async def _carry(
    source: asyncio.StreamReader, target: asyncio.StreamWriter, gone: asyncio.Event
) -> None:
    while data := await source.read(1 << 16):
        if not gone.is_set():
            target.write(data)


@asynccontextmanager
async def network(server: Server) -> AsyncIterator[tuple[Network, str]]:
    """A network, and the URL of the server through it."""
    with tempfile.TemporaryDirectory(prefix="pst-") as folder:
        made = Network(server.url.removeprefix("unix://"))
        path = f"{folder}/n.sock"
        listener = await asyncio.start_unix_server(made.connect, path)
        try:
            yield made, f"unix://{path}"
        finally:
            listener.close()


LISTENERS = ["jobs", "control plane"]


@asynccontextmanager
async def listening(listener: str, url: str) -> AsyncIterator[asyncio.Event]:
    """An event that is set by hints of a job, or of the control plane's state."""
    async with AsyncExitStack() as stack:
        if listener == "jobs":
            news = JobNews(url, KEYS, silence_s=SILENCE_S)
            changed = stack.enter_context(news.of("job"))
            task = asyncio.create_task(news.run())
        else:
            store = RedisStateStore(url, KEYS, silence_s=SILENCE_S)
            stack.push_async_callback(store.close)
            changed = asyncio.Event()
            task = asyncio.create_task(store.watch(changed.set))
        try:
            yield changed
        finally:
            task.cancel()
            await asyncio.wait({task}, timeout=PATIENCE_S)
            assert task.cancelled()


@pytest.mark.parametrize("listener", LISTENERS)
async def test_hints_come_again_after_the_server_vanished_without_a_word(
    server: Server, listener: str
) -> None:
    async with network(server) as (between, url), listening(listener, url) as changed:
        async with asyncio.timeout(PATIENCE_S):
            await changed.wait()
            changed.clear()
            await asyncio.sleep(5 * SILENCE_S)
            assert between.connections == 1  # silence alone is no reason
            assert not changed.is_set()
            between.vanish()
            await changed.wait()
        assert between.connections == 2


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_server_that_answers_nobody_is_tried_again(server: Server, listener: str) -> None:
    async with network(server) as (between, url):
        between.dead = True
        async with listening(listener, url) as changed, asyncio.timeout(PATIENCE_S):
            while between.connections < 2:
                await asyncio.sleep(0.05)
            assert not changed.is_set()
            between.dead = False
            await changed.wait()


@pytest.mark.parametrize("listener", LISTENERS)
async def test_a_server_that_hangs_is_given_up_and_heard_once_it_goes_on(
    server: Server, listener: str
) -> None:
    async with network(server) as (between, url), listening(listener, url) as changed:
        async with asyncio.timeout(PATIENCE_S):
            await changed.wait()
            changed.clear()
            server.pause()
            try:
                while between.connections < 2:
                    await asyncio.sleep(0.05)
                assert not changed.is_set()
            finally:
                server.resume()
            await changed.wait()


async def test_idle_holders_subscribe_again_after_the_server_vanished(server: Server) -> None:
    async with network(server) as (between, url):
        wake_up = BlockingWakeUp(url, KEYS.job_queue("m", "r1"), answer_s=SILENCE_S)

        async def wait() -> bool:
            return await asyncio.to_thread(wake_up.wait, 0.2)

        assert await wait()
        for _ in range(6):
            assert not await wait()
        assert between.connections == 1
        between.vanish()
        async with asyncio.timeout(PATIENCE_S):
            while not await wait():
                pass
        assert between.connections == 2
        wake_up.close()

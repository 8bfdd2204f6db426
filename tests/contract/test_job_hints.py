"""Hints over a network that takes everything and gives nothing back: its far end has vanished."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.jobs.blocking_store import BlockingWakeUp
from shared.jobs.news import JobNews
from shared.keys import Keys
from shared.state_store import RedisStateStore
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


async def test_news_come_again_after_the_server_vanished_without_a_word(server: Server) -> None:
    async with network(server) as (between, url):
        news = JobNews(url, KEYS, silence_s=SILENCE_S)
        listening = asyncio.create_task(news.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                with news.of("job") as changed:
                    await changed.wait()
                    changed.clear()
                    await asyncio.sleep(5 * SILENCE_S)
                    assert between.connections == 1  # silence alone is no reason
                    assert not changed.is_set()
                    between.vanish()
                    await changed.wait()
            assert between.connections == 2
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


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


async def test_watchers_of_the_control_plane_watch_again_after_it_vanished(server: Server) -> None:
    async with network(server) as (between, url):
        store = RedisStateStore(url, KEYS, silence_s=SILENCE_S)
        changed = asyncio.Event()
        watching = asyncio.create_task(store.watch(changed.set))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await changed.wait()
                changed.clear()
                await asyncio.sleep(5 * SILENCE_S)
                assert between.connections == 1
                assert not changed.is_set()
                between.vanish()
                await changed.wait()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await store.close()


@pytest.mark.parametrize("listener", ["jobs", "control plane"])
async def test_a_server_that_answers_nobody_is_tried_again(server: Server, listener: str) -> None:
    async with network(server) as (between, url):
        between.dead = True
        news = JobNews(url, KEYS, silence_s=SILENCE_S)
        store = RedisStateStore(url, KEYS, silence_s=SILENCE_S)
        changed = asyncio.Event()
        with news.of("job") as changed_job:
            if listener == "jobs":
                changed = changed_job
                listening = asyncio.create_task(news.run())
            else:
                listening = asyncio.create_task(store.watch(changed.set))
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while between.connections < 2:
                        await asyncio.sleep(0.05)
                    assert not changed.is_set()
                    between.dead = False
                    await changed.wait()
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
                await store.close()

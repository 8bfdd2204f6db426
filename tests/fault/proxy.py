"""A TCP proxy that makes a network bad: it stalls, resets, delays and throttles, as it is told.

    replica --> Proxy.port --> the gateway's endpoint

Bytes are never lost or reordered within a connection, as TCP does not either; what a bad network
does to TCP is that they come late, or that the connection ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

READ_BYTES = 64 * 1024
CHUNKS_MAX = 64
"""On their way in one direction of one connection; beyond that, the sender is not read."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends a reset."""


@dataclass
class Faults:
    """What the network does now; may be changed while it runs.

    Attributes:
        jitter_s: each chunk is delayed by up to so much.
        bytes_per_s: of each direction of each connection; 0: no bound.
        refusing: new connections are reset at once.
    """

    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    refusing: bool = False


@dataclass
class Proxy:
    """See the module's docstring; made by `proxy`."""

    target: tuple[str, int]
    rng: random.Random
    faults: Faults = field(default_factory=Faults)
    port: int = 0
    resets: int = 0
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def stall(self) -> None:
        """Nothing moves any more; connections stay, and new ones are taken."""
        self._flowing.clear()

    def flow(self) -> None:
        """What waits moves on."""
        self._flowing.set()

    def reset(self) -> None:
        """Break all connections, at both ends; new ones are taken."""
        self.resets += len(self._writers)
        for writer in list(self._writers):
            _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either end closes it."""
        if self.faults.refusing:
            _reset(writer)
            return
        try:
            onward_reader, onward = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            return
        self._writers |= {writer, onward}
        ways = [(reader, onward), (onward_reader, writer)]
        tasks = [asyncio.ensure_future(self._carry(*way)) for way in ways]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        self._tasks.difference_update(tasks)
        for end in (writer, onward):
            self._writers.discard(end)
            end.close()

    async def close(self) -> None:
        """End all connections."""
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction of one connection."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
        delivering = asyncio.ensure_future(self._deliver(chunks, writer))
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(READ_BYTES):
                due = loop.time() + self.rng.uniform(0.0, self.faults.jitter_s)
                await chunks.put((due, data))
            await chunks.join()
        except OSError:
            pass  # it was reset
        finally:
            delivering.cancel()

    async def _deliver(
        self, chunks: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await chunks.get()
            await asyncio.sleep(max(due - loop.time(), 0.0))
            if self.faults.bytes_per_s:
                await asyncio.sleep(len(data) / self.faults.bytes_per_s)
            await self._flowing.wait()
            writer.write(data)
            with contextlib.suppress(OSError):
                await writer.drain()
            chunks.task_done()


@contextlib.asynccontextmanager
async def proxy(target: str, seed: int) -> AsyncIterator[Proxy]:
    """A proxy on a port of its own, to a `tcp://HOST:PORT` endpoint."""
    host, _, port = target.removeprefix("tcp://").partition(":")
    carrier = Proxy((host, int(port)), random.Random(seed))
    carrier.flow()
    server = await asyncio.start_server(carrier.serve, "127.0.0.1", 0)
    carrier.port = int(server.sockets[0].getsockname()[1])
    try:
        yield carrier
    finally:
        server.close()
        await carrier.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a reset."""
    connection: socket.socket | None = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()

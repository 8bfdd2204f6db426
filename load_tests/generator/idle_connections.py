"""Clients that are connected and do almost nothing.

`python -m load_tests.generator.idle_connections PORT N` is a process of them.

Servers close what is idle for too long (uvicorn after 5 s), so each connection asks for the
server's health now and then, spread out in time. Prints a line once all are open, and at SIGTERM
one that says how many were lost meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import uvloop

from load_tests.generator.http_wire import MalformedError, ResponseReader

EVERY_S = 4.0
"""Below the 5 s after which uvicorn closes."""

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
OPENING_MAX = 50
"""At a time: more would overflow the backlog of a listening socket."""

READ_BYTES = 65536
READY = "open"


async def hold(port: int, count: int) -> int:
    """Hold connections until SIGTERM; returns how many were lost."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    opening = asyncio.Semaphore(OPENING_MAX)
    ready = asyncio.Semaphore(0)

    async def one(number: int) -> None:
        async with opening:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await _ask(reader, writer)
        ready.release()
        await asyncio.sleep(EVERY_S * number / count)
        while True:
            await _ask(reader, writer)
            await asyncio.sleep(EVERY_S)

    tasks = [asyncio.create_task(one(number)) for number in range(count)]
    for _ in range(count):
        await ready.acquire()
    print(READY, flush=True)
    await stop.wait()
    lost = sum(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    return lost


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(REQUEST)
    answer = ResponseReader()
    while data := await reader.read(READ_BYTES):
        if response := answer.feed(data):
            if response.status != 200:
                raise MalformedError(f"status {response.status}")
            return
    raise ConnectionResetError


def main() -> None:
    """Hold connections, then tell how many were lost."""
    print(uvloop.run(hold(int(sys.argv[1]), int(sys.argv[2]))), flush=True)


if __name__ == "__main__":
    main()

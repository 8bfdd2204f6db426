"""How long a request holds the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock.gateway.__main__ import COLLECT_AFTER
from penstock.gateway.http.app import GatewayApp
from penstock.gateway.memory import trim

STRETCH_S = 0.02
"""Longest turn of the loop. To read or write a large body whole takes many times as long."""


class Stretch:
    """Time from now on, without that in which this thread or its process waits for a processor.

    Other tests have the processors, too. While they keep this thread from running, that is no turn
    of the loop; while they keep another thread of ours from running, its processor time stands
    still. So the less of two counts: what this thread did not wait for a processor, and the
    processor time of the whole process.
    """

    def __init__(self) -> None:
        self._waited_s = _waited_s()  # to read it lets go of the interpreter: not to be counted
        self._clock_s, self._process_s = time.monotonic(), time.process_time()

    def seconds(self) -> float:
        """How long it was until now."""
        clock_s, process_s = time.monotonic() - self._clock_s, time.process_time() - self._process_s
        return min(process_s, clock_s - (_waited_s() - self._waited_s))


def _waited_s() -> float:
    """How long this thread has waited for a processor, though it could have run; 0: not known."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@contextmanager
def without_heap_of_other_tests() -> Iterator[None]:
    """What looks through a process's memory finds in a gateway's little: not so in that of tests.

    As in a gateway, no garbage collection looks at what was there before. Nor does the C library
    look for what it could give back, which holds up whoever wants memory meanwhile.
    """
    before, library = gc.get_threshold(), trim._glibc
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    trim._glibc = None
    try:
        yield
    finally:
        trim._glibc = library
        gc.set_threshold(*before)
        gc.unfreeze()


async def longest_turn(
    app: GatewayApp, path: str, headers: dict[bytes, bytes], body: bytes, method: str = "POST"
) -> tuple[int, float]:
    """Status, longest turn of the loop in seconds, on a processor that nothing else uses.

    A turn of the loop is as long as what runs in it, and as long as a thread that will not let go
    of the interpreter. See `Stretch` for what does not count.
    """
    statuses: list[int] = []
    pieces = [body[start : start + 2**18] for start in range(0, len(body), 2**18)][::-1]
    longest_s, done = 0.0, asyncio.Event()

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.sleep(0)  # a client's bytes come in a turn of their own
        if pieces:
            piece = pieces.pop()
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": list(headers.items()), "client": None, "server": None,
        "extensions": {},
    }  # fmt: skip
    with without_heap_of_other_tests():
        task = asyncio.create_task(app(scope, receive, send))
        while not task.done():
            stretch = Stretch()
            await asyncio.sleep(0)
            longest_s = max(longest_s, stretch.seconds())
            await asyncio.sleep(0.001)  # a loop that spins would be what threads wait for
    done.set()
    await task
    return statuses[0], longest_s

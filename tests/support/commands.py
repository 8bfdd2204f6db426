"""`penstock` commands, each a process of its own, without the price of a Python that starts.

One process has imported the command line. For each command it forks, and the fork is what a
command is otherwise: with arguments, an environment, three streams and an exit code of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.e2e.system import own_environment

ROOT = Path(__file__).parents[2]

PRELOADED = (
    "penstock.deploy.local.cli.main",
    "penstock.deploy.local.commands.history",
    "penstock.deploy.local.commands.off",
    "penstock.deploy.local.status.status",
    "penstock.deploy.local.status.wait",
)
"""What commands import, so that their forks need not."""

MESSAGE_BYTES_MAX = 1 << 20


class CommandServer:
    """The process that forks commands."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asked = ours
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.commands", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},  # where this module is found
        )
        theirs.close()
        atexit.register(self.end)

    def begin(
        self, arguments: tuple[str, ...], streams: list[int], environment: Mapping[str, str]
    ) -> socket.socket:
        """Start a command; its exit code comes as text from the socket that this returns."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = json.dumps([arguments, dict(environment)]).encode()
        with theirs:
            socket.send_fds(self._asked, [message], [*streams, theirs.fileno()])
        return ours

    def end(self) -> None:
        """End the process; it has nothing to finish."""
        self._asked.close()
        self.process.wait()


@cache
def command_server() -> CommandServer:
    """One for all tests of this process; started with the first command."""
    return CommandServer()


def penstock(*arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a `penstock` command to its end, without an input."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = _run(arguments, out, err, timeout_s)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _run(arguments: tuple[str, ...], out: IO[Any], err: IO[Any], timeout_s: float) -> int:
    with open(os.devnull) as nothing:  # noqa: PTH123
        streams = [nothing.fileno(), out.fileno(), err.fileno()]
        ended = command_server().begin(arguments, streams, own_environment())
    return exit_code(ended, timeout_s)


def exit_code(ended: socket.socket, timeout_s: float = 60.0) -> int:
    """Wait for a command's exit code; negative for a signal that ended it."""
    with ended:
        ended.settimeout(timeout_s)
        told = ended.recv(16)
    assert told, "the command server is gone"
    return int(told)


def serve(asked: socket.socket) -> None:
    """Fork a command for each message, until nobody is there to send any."""
    while True:
        message, fds, _, _ = socket.recv_fds(asked, MESSAGE_BYTES_MAX, 4)
        if not message:
            return
        if os.fork() == 0:
            asked.close()
            _look_after(*json.loads(message), *fds)
        for fd in fds:
            os.close(fd)
        _reap()


def _reap() -> None:
    """Forget those who looked after commands that are over."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _look_after(
    arguments: list[str],
    environment: dict[str, str],
    stdin: int,
    stdout: int,
    stderr: int,
    told: int,
) -> NoReturn:
    """Fork once more, so that the server goes on meanwhile; tell the exit code."""
    command = os.fork()
    if command == 0:
        os.close(told)
        _become(arguments, environment, [stdin, stdout, stderr])
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    _, status = os.waitpid(command, 0)
    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(arguments: list[str], environment: dict[str, str], streams: list[int]) -> NoReturn:
    """Be a command: from here on all is as if Python had started with it."""
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, closefd=False)  # noqa: SIM115
        for number, mode in enumerate(("r", "w", "w"))
    )
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["penstock", *arguments]
    from penstock.deploy.local.cli.main import main  # noqa: PLC0415 - imported long ago

    main()


if __name__ == "__main__":
    for each in PRELOADED:
        importlib.import_module(each)
    gc.freeze()  # a fork that ends would look through all of it
    serve(socket.socket(fileno=int(sys.argv[1])))

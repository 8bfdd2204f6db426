"""A peer's processes: start them, wait until they answer, end all of them.

Peers start processes of their own, and some of those leave the tree: their parents end, or they
begin a session. So a process is held to be the peer's if it descends from the one we started, is
in its session, or carries the mark that we put into the environment; and so are its descendants.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from load_tests.server import HttpRequest, ServerError
from load_tests.servers.processes import alive, descendants
from load_tests.servers.verification import post

LOG_NAME = "server.log"
LOG_TAIL_BYTES = 4000
"""Of a server that did not start: its last lines, a traceback at most."""

START_TIMEOUT_S = 120.0
STOP_GRACE_S = 10.0
"""For the peer to end its processes itself; without load all of those measured need less."""

KILL_TIMEOUT_S = 10.0
POLL_S = 0.05
"""Other processes' conditions make no event to wait for."""

MARK = "PENSTOCK_PEER_RUN"
PROC = Path("/proc")
HTTP_OK = 200


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def has_mark(pid: int, mark: bytes) -> bool:
    """Whether a process was started with our mark in its environment."""
    try:
        return mark in (PROC / str(pid) / "environ").read_bytes()
    except OSError:  # ended meanwhile, or somebody else's
        return False


def in_session(pid: int, session: int) -> bool:
    """Whether a process is in the session that another one leads or led."""
    try:
        return os.getsid(pid) == session
    except OSError:  # ended meanwhile
        return False


def log_tail(path: Path) -> str:
    """The end of a log, for messages."""
    if not path.exists():
        return "(no log)"
    return path.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() or "(empty log)"


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        environment: what it needs beyond that of this process.
    """

    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class ServerProcess:
    """A server's first process and all that came of it. `start` starts it."""

    def __init__(self, work_dir: Path) -> None:
        self.log_path = work_dir / LOG_NAME
        self._work_dir = work_dir
        self._mark = f"{MARK}={uuid4().hex}"
        self._popen: subprocess.Popen[bytes] | None = None
        self.temporary: Path | None = None

    def make_temporary(self) -> Path:
        """A folder for the server's sockets: its path is short, as theirs have to be."""
        self.temporary = Path(tempfile.mkdtemp(prefix="peer-"))
        return self.temporary

    def start(self, launch: Launch) -> None:
        """Start the first process in a session of its own.

        Raises:
            ServerError: if its program cannot be started.
        """
        name, _, value = self._mark.partition("=")
        environment = {**os.environ, **launch.environment, name: value}
        with self.log_path.open("wb") as log:
            try:
                self._popen = subprocess.Popen(
                    launch.command,
                    env=environment,
                    cwd=self._work_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise ServerError(f"cannot start {launch.command[0]}: {error}") from error

    def pids(self) -> list[int]:
        """All processes now."""
        if self._popen is None:
            return []
        root, mark = self._popen.pid, self._mark.encode()
        found = set(descendants(root))
        for pid in [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]:
            if pid not in found and (in_session(pid, root) or has_mark(pid, mark)):
                found.update(descendants(pid))
        return [pid for pid in found if alive(pid)]

    def wait_until_answers(
        self, port: int, request: HttpRequest, check: Callable[[Mapping[str, str], bytes], object]
    ) -> None:
        """Ask until an answer passes a check.

        Args:
            check: raises ServerError at an answer (its headers and body) that is wrong.

        Raises:
            ServerError: if the server ended or the time is over.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        problem = "no connection"
        while time.monotonic() < deadline:
            if self._popen is None or self._popen.poll() is not None:
                raise ServerError(f"the server has ended. Its log ends:\n{log_tail(self.log_path)}")
            try:
                status, headers, body = post(port, request)
                if status != HTTP_OK:
                    raise ServerError(f"status {status}: {body[:300]!r}")
                check(headers, body)
                return
            except (OSError, http.client.HTTPException, ServerError) as error:
                problem = str(error) or type(error).__name__
            time.sleep(POLL_S)
        raise ServerError(
            f"no answer within {START_TIMEOUT_S:.0f} s, the last problem being: {problem}. "
            f"The server's log ends:\n{log_tail(self.log_path)}"
        )

    def stop(self) -> None:
        """End all processes: politely the first one, then the others, then by force."""
        if self._popen is not None:
            self._end_politely(self._popen)
            self._kill_rest(self._popen)
            self._popen = None
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def _end_politely(self, popen: subprocess.Popen[bytes]) -> None:
        popen.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        while time.monotonic() < deadline:
            left = self.pids()
            if not left:
                return
            if popen.poll() is not None:  # those it left behind are told by us
                for pid in left:
                    signal_process(pid, signal.SIGTERM)
            time.sleep(POLL_S)

    def _kill_rest(self, popen: subprocess.Popen[bytes]) -> None:
        """Until there is none, for a process may have begun another meanwhile."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        while left := self.pids():
            if time.monotonic() > deadline:
                raise ServerError(f"processes that cannot be killed: {left}")
            for pid in left:
                signal_process(pid, signal.SIGKILL)
            popen.poll()
            time.sleep(POLL_S)
        popen.wait()


def signal_process(pid: int, number: signal.Signals) -> None:
    """Signal a process unless it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)

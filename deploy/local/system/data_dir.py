"""The data directory of a local system: its layout, its lock, its logs."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from penstock.deploy.local.cli.failures import CommandError

LOG_BYTES_MAX = 64 * 1024 * 1024
"""A log that grew past this moves to `.1` (one old one is kept): at most 128 MiB for each child."""

COPY_BYTES = 1 << 20

PREDECESSOR_S = 15.0
"""How long to wait for the guardian of a killed launcher to end its processes; it takes 3 s."""

PRIVATE_UMASK = 0o077
"""Of `penstock up` and all that it starts: what clients and models say is their owner's alone."""

OTHERS = 0o077

POLL_S = 0.05
"""There is no flock with a timeout."""


@dataclass(frozen=True)
class DataDir:
    """Where everything lies. `path` is resolved."""

    path: Path

    @property
    def lock(self) -> Path:
        """Locked while a system runs here; holds the launcher's pid."""
        return self.path / "lock"

    @property
    def logs(self) -> Path:
        """One log for each child."""
        return self.path / "logs"

    @property
    def redis(self) -> Path:
        """The embedded server's append-only file and socket."""
        return self.path / "redis"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.path / "mlflow"

    @property
    def cache(self) -> Path:
        """Artifacts of deployed versions."""
        return self.path / "cache"

    @property
    def blobs(self) -> Path:
        """Large payloads and results of jobs."""
        return self.path / "blobs"

    @property
    def webhook_secret(self) -> Path:
        """By which webhooks are signed, unless the operator has a secret of their own."""
        return self.path / "webhook-secret"

    def log_of(self, name: str) -> Path:
        """The log of the child called `name`."""
        return self.logs / f"{name}.log"

    def make(self) -> list[str]:
        """Make all folders, and close to others what is there already.

        Returns: what is to be said of folders that were open to others. The data directory itself
            stays as it is: it may be one that holds more than ours.

        Raises:
            CommandError: if that is not possible.
        """
        ours = (self.logs, self.redis, self.mlflow, self.cache, self.blobs)
        try:
            for folder in (self.path, *ours, self.mlflow / "artifacts"):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            findings = [_closed(folder) for folder in ours]
            if _is_open(self.path):
                findings.append(
                    f"{self.path} is open to others ({_mode(self.path)}), who may see what lies "
                    "there, but not read it; chmod 700 closes it"
                )
        except OSError as error:
            raise CommandError(f"data dir {self.path}: {error.strerror}") from error
        return [finding for finding in findings if finding]


def _closed(folder: Path) -> str:
    """Close a folder to others; says so, if it was open."""
    if not _is_open(folder):
        return ""
    before = _mode(folder)
    try:
        folder.chmod(0o700)
    except PermissionError:
        return f"{folder} is open to others ({before}), and is not ours to close"
    return f"{folder} was open to others ({before}); it is closed now"


def _is_open(folder: Path) -> bool:
    return bool(folder.stat().st_mode & OTHERS)


def _mode(folder: Path) -> str:
    return f"mode {stat.S_IMODE(folder.stat().st_mode):04o}"


def lock_data_dir(data_dir: DataDir) -> int:
    """Take the lock; returns its descriptor, which the guardian inherits.

    Raises:
        CommandError: if a system runs there.
    """
    descriptor = os.open(data_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + PREDECESSOR_S
    while not _try_lock(descriptor):
        pid = _pid_in(descriptor)
        if (pid is not None and _alive(pid)) or time.monotonic() > give_up:
            os.close(descriptor)
            raise CommandError(f"already running on {data_dir.path} (pid {pid or 'unknown'})")
        time.sleep(POLL_S)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def running_pid(data_dir: DataDir) -> int | None:
    """The launcher that runs on the data directory, or None."""
    try:
        descriptor = os.open(data_dir.lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        pid = _pid_in(descriptor)
        if pid is None or not _alive(pid) or _try_lock(descriptor, shared=True):
            return None
        return pid
    finally:
        os.close(descriptor)


def start_log(log: Path) -> None:
    """Begin a new log; the last one is kept as `.1`."""
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))


def bound_log(log: Path) -> None:
    """Copy the end of a log that grew too long to `.1` and empty it; its writer begins anew.

    The writer has the file open for appending and need not know. Lines that it writes between the
    copy and the cut are lost.
    """
    if not log.exists() or log.stat().st_size <= LOG_BYTES_MAX:
        return
    with log.open("rb") as full, log.with_name(log.name + ".1").open("wb") as old:
        full.seek(-LOG_BYTES_MAX, os.SEEK_END)  # however much was written since the last look
        while left := LOG_BYTES_MAX - old.tell():
            piece = full.read(min(left, COPY_BYTES))
            if not piece:
                break
            old.write(piece)
    os.truncate(log, 0)


def tail_of(log: Path, lines: int = 15) -> str:
    """The last lines of a log, each cut to a readable length."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(line[:400] for line in text.splitlines()[-lines:])


def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(descriptor: int) -> int | None:
    digits = os.pread(descriptor, 32, 0).strip()
    return int(digits) if digits.isdigit() else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

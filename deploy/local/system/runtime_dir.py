"""A short private directory for sockets.

The address of a unix socket has at most 107 bytes, and a data directory may be longer than that.
So sockets get a directory whose name is short whatever the data directory is called, and a
symlink in it leads to the data directory, for the one socket that lies there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from pathlib import Path

from penstock.deploy.local.cli.failures import CommandError

SOCKET_PATH_MAX = 107
"""Bytes in `sockaddr_un.sun_path`, less the terminating zero."""

LONGEST_SOCKET_NAME = "/data/redis/redis.sock"
"""The longest path that is used below the directory; gateways' `gateway-NNN.ipc` are shorter."""

DATA_LINK = "data"


def runtime_dir_name(data_dir: Path, uid: int) -> str:
    """The directory's name: the same for the same (resolved) data directory and user."""
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    return f"penstock-{uid}-{digest}"


def choose_base(candidates: list[Path], name: str) -> Path | None:
    """The first candidate below which every socket path is short enough."""
    for base in candidates:
        if len(os.fsencode(base / name)) + len(LONGEST_SOCKET_NAME) <= SOCKET_PATH_MAX:
            return base
    return None


class RuntimeDir:
    """The directory of one data directory, made and checked; a lock on it keeps cleaners away."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def make(cls, data_dir: Path) -> RuntimeDir:
        """Make or take over the directory that belongs to `data_dir` (resolved).

        Raises:
            CommandError: if somebody else owns what has its name.
        """
        name = runtime_dir_name(data_dir, os.geteuid())
        base = choose_base(_candidates(), name)
        if base is None:  # /tmp is short enough by itself
            raise CommandError("no directory for sockets has a path that is short enough")
        path = base / name
        path.mkdir(mode=0o700, exist_ok=True)
        _check_private(path)
        link = path / DATA_LINK
        link.unlink(missing_ok=True)
        link.symlink_to(data_dir, target_is_directory=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        # systemd-tmpfiles empties old directories in /tmp, but not those that are locked.
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return cls(path, descriptor)

    @property
    def data(self) -> Path:
        """The data directory by a short name."""
        return self.path / DATA_LINK

    def remove(self) -> None:
        """Remove the directory with what sockets are left in it."""
        for entry in self.path.iterdir():
            entry.unlink(missing_ok=True)
        self.path.rmdir()
        os.close(self._descriptor)


def _candidates() -> list[Path]:
    bases = [Path("/tmp")]
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and Path(xdg).is_dir() and os.access(xdg, os.W_OK):
        bases.insert(0, Path(xdg))
    return bases


def _check_private(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise CommandError(f"{path} belongs to somebody else; remove it and start again")
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)

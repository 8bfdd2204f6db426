"""What a server's processes take of the machine, read from /proc.

Processor time is looked at by process and not by container, so that it can be told by role; what
ended between two looks is not counted, so roles that spawn short-lived processes are undercounted.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
MIB = 2**20

Pids = Callable[[], Mapping[str, Sequence[int]]]
"""Processes now, by role."""


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        pending += children.get(found[-1], [])
    return found


def title(pid: int) -> str:
    """Its command line, which processes may set to a title; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def started_at(pid: int) -> float:
    """When a process began, as seconds since the epoch, to a hundredth; 0 if it has ended."""
    fields = _stat(pid)
    if not fields:
        return 0.0
    booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted_at + int(fields[19]) / TICKS_PER_S


def cpu_s(pid: int) -> float:
    """Processor time that a process took so far; 0 if it has ended."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S if fields else 0.0


def pss_bytes(pid: int) -> int:
    """Memory of a process; of pages that it shares, its share. 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def pss_mib(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Memory by role."""
    return {role: sum(map(pss_bytes, each)) / MIB for role, each in pids.items()}


@dataclass(frozen=True)
class CpuUse:
    """Processor time of a span.

    Attributes:
        roles_s: of the server, by role.
        others_cores: processors that were busy with neither the server nor our own children.
    """

    roles_s: Mapping[str, float]
    others_cores: float

    def per_request_us(self, requests: int) -> dict[str, float]:
        """By role; empty if nothing was answered."""
        return {role: s / requests * 1e6 for role, s in self.roles_s.items()} if requests else {}


class CpuMeter:
    """Measures from its making to `stop`."""

    def __init__(self, pids: Pids) -> None:
        self._pids = pids
        self._before = {pid: cpu_s(pid) for each in pids().values() for pid in each}
        self._busy_s = _machine_busy_s()
        self._own_s = _own_s()
        self._started = time.monotonic()

    def stop(self) -> CpuUse:
        """What was taken since; our children count once they have been waited for."""
        span_s = time.monotonic() - self._started
        roles = {
            role: sum(cpu_s(pid) - self._before.get(pid, 0.0) for pid in each)
            for role, each in self._pids().items()
        }
        busy_s = _machine_busy_s() - self._busy_s
        ours_s = sum(roles.values()) + _own_s() - self._own_s
        return CpuUse(roles, max(0.0, busy_s - ours_s) / span_s)


def _own_s() -> float:
    """Of this process, and of children of ours that ended: the load generators."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def _machine_busy_s() -> float:
    """Processor time of everything, with what a hypervisor took away."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []

"""What this machine offers to replicas: cores, memory and GPUs, as far as we may use them.

A container's limits are honoured: cgroup v2's `cpu.max` and `memory.max` of our own group and of
all groups above it, the CPU affinity mask, and `CUDA_VISIBLE_DEVICES`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NVIDIA_SMI_TIMEOUT_S = 10.0
"""A driver in trouble can hang the tool; a worker without GPUs is better than none."""


MEMORY_QUERY = ("--query-gpu=memory.total", "--format=csv,noheader,nounits")


@dataclass(frozen=True)
class Machine:
    """What replicas may use.

    Attributes:
        cores: whole CPU cores, at least 1.
        memory_bytes: main memory.
        devices: `cpu`, then `cuda:N` for each GPU.
        device_memory_bytes: of each GPU whose memory could be found out.
    """

    cores: int
    memory_bytes: int
    devices: tuple[str, ...]
    device_memory_bytes: Mapping[str, int] = field(default_factory=dict)

    @property
    def gpus(self) -> tuple[str, ...]:
        """The devices that are GPUs."""
        return tuple(device for device in self.devices if device.startswith("cuda:"))


def discover(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> Machine:
    """Look at this machine.

    Args:
        root: where `/proc` and `/sys` hang; another folder in tests.
        environ: environment variables; default: this process's.
    """
    environ = os.environ if environ is None else environ
    groups = list(_cgroups(root))
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible_gpus(_gpu_count(root), visible)
    return Machine(
        cores=_cores(groups),
        memory_bytes=memory_bytes(root),
        devices=("cpu", *(f"cuda:{index}" for index in range(gpus))),
        device_memory_bytes=gpu_memory(_smi(MEMORY_QUERY, root), gpus, visible) if gpus else {},
    )


def memory_bytes(root: Path = Path("/")) -> int:
    """Main memory of this machine or of our container; 0: not known. `root` as for `discover`."""
    limits = []
    for line in _text(root / "proc/meminfo").splitlines():
        match line.split():
            case ["MemTotal:", kibibytes, "kB"]:
                limits.append(int(kibibytes) * 1024)
    files = (_text(group / "memory.max").strip() for group in _cgroups(root))
    limits += [int(limit) for limit in files if limit.isdigit()]
    return min(limits, default=0)


def visible_gpus(installed: int, cuda_visible_devices: str | None) -> int:
    """How many GPUs CUDA shows to our processes, where they are numbered from 0.

    CUDA ignores everything from the first invalid entry of the variable on, such as -1.
    """
    if cuda_visible_devices is None:
        return installed
    count = 0
    for entry in cuda_visible_devices.split(","):
        if not entry.strip() or entry.strip() == "-1":
            break
        count += 1
    return min(count, installed)


def _cgroups(root: Path) -> Iterator[Path]:
    """Folders of our cgroup (version 2) and of all groups above it."""
    mount = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            group = mount / line.removeprefix("0::").strip().lstrip("/")
            while group != mount and mount in group.parents:
                yield group
                group = group.parent
            yield mount


def _cores(groups: list[Path]) -> int:
    if hasattr(os, "sched_getaffinity"):
        cores = float(len(os.sched_getaffinity(0)))
    else:
        cores = float(os.cpu_count() or 1)
    for group in groups:
        match _text(group / "cpu.max").split():
            case [quota, period] if quota.isdigit() and period.isdigit() and int(period):
                cores = min(cores, int(quota) / int(period))
    return max(1, int(cores))


def _gpu_count(root: Path) -> int:
    driver = root / "proc/driver/nvidia/gpus"
    if driver.is_dir():
        return sum(1 for _ in driver.iterdir())
    return sum(1 for line in _smi(("-L",), root).splitlines() if line.startswith("GPU "))


def gpu_memory(listing: str, gpus: int, cuda_visible_devices: str | None) -> dict[str, int]:
    """Memory of each GPU that CUDA shows, from the tool's list of mebibytes for all of them.

    Nothing is known of GPUs that the variable names by their UUIDs.
    """
    sizes = [int(line) * 1024**2 for line in listing.split() if line.isdigit()]
    shown = list(range(gpus))
    if cuda_visible_devices is not None:
        entries = cuda_visible_devices.split(",")[:gpus]
        if not all(entry.strip().isdigit() for entry in entries):
            return {}
        shown = [int(entry) for entry in entries]
    return {
        f"cuda:{index}": sizes[installed]
        for index, installed in enumerate(shown)
        if installed < len(sizes)
    }


def _smi(arguments: Sequence[str], root: Path) -> str:
    """What NVIDIA's tool prints; nothing if it is not there or in trouble."""
    tool = shutil.which("nvidia-smi")
    if tool is None or root != Path("/"):
        return ""
    try:
        return subprocess.run(
            [tool, *arguments],
            capture_output=True,
            text=True,
            timeout=NVIDIA_SMI_TIMEOUT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _text(path: Path) -> str:
    """A file's text, or nothing if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""

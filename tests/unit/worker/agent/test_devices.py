"""What a machine, or a container on it, offers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.worker.agent.devices import discover, gpu_memory, visible_gpus

MEMINFO = "MemTotal:       1024 kB\nMemFree:        512 kB\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", MEMINFO)
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def our_cores() -> int:
    return len(os.sched_getaffinity(0))


def test_plain_machine(root: Path) -> None:
    machine = discover(root, {})
    assert machine.cores == our_cores()
    assert machine.memory_bytes == 1024 * 1024
    assert machine.devices == ("cpu",)
    assert machine.gpus == ()


def test_this_machine() -> None:
    machine = discover()
    assert 1 <= machine.cores <= our_cores()
    assert machine.memory_bytes > 0
    assert machine.devices[0] == "cpu"


def test_limits_of_the_group_and_of_those_above_it(root: Path) -> None:
    write(root, "proc/self/cgroup", "3:cpu:/old\n0::/pod/container\n")
    write(root, "sys/fs/cgroup/pod/container/cpu.max", "max 100000\n")
    write(root, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n")
    write(root, "sys/fs/cgroup/pod/container/memory.max", "524288\n")
    write(root, "sys/fs/cgroup/pod/memory.max", "max\n")
    machine = discover(root, {})
    assert machine.cores == 1
    assert machine.memory_bytes == 524288


def test_limits_inside_a_namespace(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/\n")
    write(root, "sys/fs/cgroup/cpu.max", "50000 100000\n")
    write(root, "sys/fs/cgroup/memory.max", "4096\n")
    machine = discover(root, {})
    assert (machine.cores, machine.memory_bytes) == (1, 4096)


def test_nonsense_is_no_limit(root: Path) -> None:
    write(root, "proc/self/cgroup", "0::/\n")
    write(root, "sys/fs/cgroup/cpu.max", "a lot\n")
    write(root, "sys/fs/cgroup/memory.max", "\n")
    machine = discover(root, {})
    assert (machine.cores, machine.memory_bytes) == (our_cores(), 1024 * 1024)


def test_gpus(root: Path) -> None:
    for bus in ("0000:01:00.0", "0000:02:00.0"):
        write(root, f"proc/driver/nvidia/gpus/{bus}/information", "Model: X\n")
    assert discover(root, {}).devices == ("cpu", "cuda:0", "cuda:1")
    assert discover(root, {"CUDA_VISIBLE_DEVICES": "1"}).gpus == ("cuda:0",)


@pytest.mark.parametrize(
    ("installed", "variable", "visible"),
    [
        (2, None, 2),
        (2, "", 0),
        (2, "-1", 0),
        (2, "0", 1),
        (2, "1,0", 2),
        (4, "0,-1,2", 1),
        (1, "0,1,2", 1),
        (2, "GPU-8932f937", 1),
    ],
)
def test_cuda_visible_devices(installed: int, variable: str | None, visible: int) -> None:
    assert visible_gpus(installed, variable) == visible


@pytest.mark.parametrize(
    ("listing", "gpus", "variable", "mebibytes"),
    [
        ("81559\n24576\n", 2, None, {"cuda:0": 81559, "cuda:1": 24576}),
        ("81559\n24576\n", 1, "1", {"cuda:0": 24576}),
        ("81559\n24576\n", 1, "GPU-8932f937", {}),
        ("", 2, None, {}),
        ("[N/A]\n", 1, None, {}),
    ],
)
def test_memory_of_gpus(
    listing: str, gpus: int, variable: str | None, mebibytes: dict[str, int]
) -> None:
    sizes = {device: size * 1024**2 for device, size in mebibytes.items()}
    assert gpu_memory(listing, gpus, variable) == sizes

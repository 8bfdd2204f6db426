"""Memory of replicas, read of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.shared.contracts.deployment import ReplicaReport, ReplicaState
from penstock.worker.agent.resident import OTHERS, by_replica, largest_named, resident_bytes

MIB = 1024 * 1024
HELD = 64 * MIB
HOLD = f"held = bytearray({HELD}); print('held', flush=True); input()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds 64 MiB."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def replica(name: str, pid: int | None) -> ReplicaReport:
    return ReplicaReport(
        key=name,
        replica=name,
        model="m",
        version="1",
        revision="m/1",
        state=ReplicaState.READY,
        device="cpu",
        pid=pid,
    )


def test_a_replica_shows_what_it_holds(child: subprocess.Popen[bytes]) -> None:
    ((label, size_bytes),) = by_replica([replica("r", child.pid), replica("loading", None)])
    assert label == ("m", "1", "r")
    assert HELD < size_bytes < HELD + 200 * MIB


def test_a_replica_that_is_gone_shows_nothing(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert resident_bytes(child.pid) is None  # a zombie
    child.wait()
    assert list(by_replica([replica("r", child.pid)])) == []


def test_a_process_that_has_the_number_now_is_none_of_ours() -> None:
    assert resident_bytes(os.getpid()) is None
    assert resident_bytes(1) is None


@given(
    sizes=st.dictionaries(st.integers(0, 99).map(str), st.integers(1, 1000), max_size=20),
    named=st.integers(1, 10),
)
def test_the_largest_are_named_and_the_sum_is_right(sizes: dict[str, int], named: int) -> None:
    labelled = {("m", "1", name): size for name, size in sizes.items()}
    shown = largest_named(labelled, named)
    assert len(shown) == min(named, len(sizes)) + 1
    assert sum(shown.values()) == sum(sizes.values())
    others = [size for label, size in labelled.items() if label not in shown]
    assert all(size <= shown[label] for label in shown if label != OTHERS for size in others)

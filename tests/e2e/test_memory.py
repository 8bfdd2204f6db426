"""A node after many swaps and failed loads is where it was after the first of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.folder import SWAP_TIMEOUT_S, answers_with, folder_system, put_affine, status_of
from tests.e2e.footprint import MIB, Footprint, settled_footprint
from tests.e2e.system import LocalSystem, alive
from tests.support.models import affine
from tests.support.waiting import wait_until

GROWTH_SHARE = 0.10
GROWTH_BYTES = 15 * MIB
"""Tolerance: what allocators keep. One replica that were left behind would take 50 MiB and more."""

CONNECTIONS = 3
"""A process opens another connection to the store whenever two of its tasks ask at the same time,
and keeps it: as many as it has tasks that ask, and none with each swap."""

NO_RETRY = {"PENSTOCK_LOAD_BACKOFF_S": "3600", "PENSTOCK_LOAD_BACKOFF_MAX_S": "3600"}
"""A failed load is not tried again in the middle of a measurement."""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    """Two models: `good`, which is to be swapped, and `bad`, whose changes are to fail."""
    system = folder_system(tmp_path)
    system.environment |= NO_RETRY
    for model in ("good", "bad"):
        affine(tmp_path / "models" / model / "1", 1.0)
    processes: set[int] = set()
    try:
        system.start()
        for model in ("good", "bad"):
            answers_with(system, model, 1.0, SWAP_TIMEOUT_S)
        yield system
        processes = system.processes()
    finally:
        exit_code = system.stop(signal.SIGINT)
    assert exit_code == 0, system.output
    assert not any(map(alive, processes))


class Rounds:
    """Changes of both models, one after the other; no two are the same."""

    def __init__(self, system: LocalSystem) -> None:
        self._system = system
        self._models = system.data_dir.parent / "models"
        self._number = 1

    def run(self, *, swaps: int, failures: int) -> Footprint:
        """So many of each, at the same time as far as they go; the footprint after that."""
        for turn in range(max(swaps, failures)):
            self._number += 1
            told = status_of(self._models, "bad", 1)[1]
            if turn < failures:
                broken = self._models / "bad" / "1" / "model.onnx"
                broken.write_bytes(f"no graph {self._number}".encode() * 1000)
            if turn < swaps:
                put_affine(self._models / "good" / "1", float(self._number))
                answers_with(self._system, "good", float(self._number), SWAP_TIMEOUT_S)
            if turn < failures:
                self._await_failure(told)
        answers_with(self._system, "bad", 1.0, SWAP_TIMEOUT_S)
        return settled_footprint(self._system)

    def _await_failure(self, told: str) -> None:
        def is_told() -> bool:
            status, message = status_of(self._models, "bad", 1)
            return status == "serving" and "its change failed" in message and message != told

        wait_until(is_told, SWAP_TIMEOUT_S, "the failed load is told")


def check(before: Footprint, after: Footprint, what: str) -> None:
    """Nothing is left behind, and memory is where it was."""
    limit = before.total_pss * (1 + GROWTH_SHARE) + GROWTH_BYTES
    grown = {
        name: f"{after.pss[name] / MIB:.1f} ({(after.pss[name] - before.pss[name]) / MIB:+.1f})"
        for name in after.pss
        if name in before.pss
    }
    print(
        f"\nafter {what}: {after.total_pss / MIB:.1f} MiB in {len(after.pss)} processes, "
        f"before: {before.total_pss / MIB:.1f} in {len(before.pss)}; those that stayed: {grown}; "
        f"descriptors {after.descriptors}"
    )
    assert after.shape == before.shape
    more = {name: after.descriptors[name] - before.descriptors[name] for name in before.descriptors}
    assert max(more.values()) <= CONNECTIONS, more
    assert after.total_pss < limit


@pytest.mark.timeout(400)
def test_a_few_swaps_and_failed_loads_leave_nothing(
    system: LocalSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = Rounds(system)
    first = rounds.run(swaps=1, failures=1)
    last = rounds.run(swaps=6, failures=6)
    with capsys.disabled():
        check(first, last, "7 swaps and 7 failed loads")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_hundreds_of_swaps_and_failed_loads_leave_nothing(
    system: LocalSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = Rounds(system)
    first = rounds.run(swaps=1, failures=1)
    swapped = rounds.run(swaps=100, failures=0)
    with capsys.disabled():
        check(first, swapped, "100 swaps")
        check(first, rounds.run(swaps=0, failures=100), "100 failed loads more")

"""What a first load finds by chance, and how much memory it makes a trial take."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.wire.tensors import AnyArray
from penstock.worker.runtimes.base import ExecutionError
from penstock.worker.session.outcomes import FailureKind
from penstock.worker.trial import trial
from penstock.worker.trial.warmup import TRIED_AGAIN, WarmUp, execute_once
from tests.unit.worker.trial.test_warmup import Compute, Fake

ROW_BYTES = 12
"""Of a row of `Fake`: three numbers in FP32."""


def once(kind: FailureKind, at: int) -> Compute:
    """Computes row by row, but fails the first time that there are so many rows."""
    failed: list[int] = []

    def compute(x: AnyArray) -> AnyArray:
        if len(x) >= at and not failed:
            failed.append(len(x))
            raise ExecutionError(kind, "a neighbour")
        return x * 2

    return compute


def test_a_trial_that_takes_too_long_is_made_again_by_the_next_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("penstock.worker.trial.trial", "penstock.worker.trial.warmup"):
        monkeypatch.setattr(f"{module}.TRIAL_S_MAX", 1e-9)
    finding = WarmUp(Fake()).find_out()
    assert (finding.interface.max_batch_size, finding.chance) == (0, True)
    assert TRIED_AGAIN in finding.reason


@pytest.mark.parametrize("at", [2, 4, 8])
def test_a_refusal_that_does_not_recur_is_chance(at: int) -> None:
    finding = WarmUp(Fake(once(FailureKind.INPUT, at))).find_out()
    assert finding.rows_merged < 12
    assert finding.chance
    assert "a neighbour" in finding.reason
    assert TRIED_AGAIN in finding.reason


def test_a_refusal_that_recurs_is_kept() -> None:
    fake = Fake(failure=lambda rows: None if rows <= 8 else FailureKind.INPUT)
    finding = WarmUp(fake).find_out()
    assert (finding.rows_merged, finding.chance) == (6, False)
    assert finding.reason == "batches have at most 6 row(s): the reason"


@pytest.mark.parametrize(("device", "chance"), [("cpu", True), ("cuda:0", False)])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_memory_that_others_use_too_is_chance(most: int, device: str, chance: bool) -> None:
    fake = Fake(failure=lambda rows: None if rows <= most else FailureKind.OUT_OF_MEMORY)
    finding = WarmUp(fake, device=device).find_out()
    assert 1 <= finding.rows_merged <= most
    assert finding.chance is chance
    assert f"at most {finding.rows_merged} row(s): the reason" in finding.reason


def mixed(x: AnyArray) -> AnyArray:
    apart: AnyArray = x - x.mean(axis=0)
    return apart


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_rows_that_were_seen_to_mix_are_kept_even_if_something_failed_beside(device: str) -> None:
    def compute(x: AnyArray) -> AnyArray:
        if np.abs(x).max() > 100:
            raise ExecutionError(FailureKind.OUT_OF_MEMORY, "too large")
        return mixed(x)

    finding = WarmUp(Fake(compute), device=device).find_out()
    assert (finding.interface.max_batch_size, finding.chance) == (0, False)
    assert "depends on the other rows" in finding.reason


@pytest.mark.parametrize("most", [2, 3, 5])
def test_a_trial_makes_no_batch_that_is_too_large_and_lowers_nothing_for_it(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TENSOR_BYTES_MAX", most * ROW_BYTES)
    fake = Fake(lambda x: x * 2)
    finding = WarmUp(fake).find_out()
    assert (finding.rows_merged, finding.reason) == (12, "")
    assert max(fake.runs) == most
    fake.runs.clear()
    assert execute_once(fake, finding, None)
    assert fake.runs == [most]
    assert WarmUp(Fake(mixed)).find_out().interface.max_batch_size == 0


@pytest.mark.parametrize(("static", "most"), [(None, 1), (4, 3), (None, 0)])
def test_rows_too_large_to_be_compared_are_not_made_and_not_batched(
    static: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "TENSOR_BYTES_MAX", most * ROW_BYTES)
    joined: list[int] = []
    monkeypatch.setattr(trial, "joined", lambda rows: joined.append(len(rows)))
    finding: Finding = WarmUp(Fake(static=static)).find_out()
    assert (finding.interface.max_batch_size, finding.chance) == (0, False)
    assert "larger than" in finding.reason
    assert joined == []


def test_a_batch_size_is_not_looked_for_beyond_what_may_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "TENSOR_BYTES_MAX", 4 * ROW_BYTES)
    fake = Fake(lambda x: x * 2, failure=lambda rows: None if rows == 4 else FailureKind.INPUT)
    fake.interface = fake.interface.model_copy(
        update={"inputs": (TensorSpec(name="x", datatype="FP32", shape=(-1, 3)),)}
    )
    assert WarmUp(fake).find_out().static_rows == 4
    assert max(fake.runs) == 4


def test_a_fixed_size_that_is_too_large_to_be_made_up_is_not_executed_at_later_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finding = WarmUp(Fake(lambda x: x * 2, static=8)).find_out()
    assert finding.static_rows == 8
    monkeypatch.setattr(trial, "TENSOR_BYTES_MAX", 7 * ROW_BYTES)
    fake = Fake(static=8)
    assert execute_once(fake, finding, None)
    assert fake.runs == []

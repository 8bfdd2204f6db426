"""Which lack of memory is to be remembered."""

from __future__ import annotations

import pytest

from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.findings import Finding
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.worker.replica.short_of_memory import short_of_memory
from penstock.worker.trial.unbatched import unbatched


def finding(*inner: int, datatype: str = "FP32") -> Finding:
    spec = TensorSpec(name="x", datatype=datatype, shape=(-1, *inner))
    interface = ModelInterface(inputs=(spec,), outputs=(), max_batch_size=32, platform="fake")
    return Finding(interface=interface, merges=True)


@pytest.mark.parametrize(
    ("model", "rows", "device", "is_kept"),
    [
        (finding(3), 32, "cuda:0", True),
        (finding(3), 2, "cuda:1", True),
        (finding(3), 32, "cpu", False),
        (finding(3), 1, "cuda:0", False),
        (finding(-1), 32, "cuda:0", False),
        (finding(1, datatype="BYTES"), 32, "cuda:0", False),
        (finding(3).model_copy(update={"chance": True}), 32, "cuda:0", False),
    ],
)
def test_memory_is_the_models_own_on_a_gpu_where_its_rows_have_one_size(
    model: Finding, rows: int, device: str, is_kept: bool
) -> None:
    lowered = short_of_memory(model, rows, max(rows // 2, 1), device)
    assert lowered.rows_merged == max(rows // 2, 1)
    assert lowered.chance is not is_kept
    assert f"memory ran out at {rows} " in lowered.reason
    assert ("until this replica ends" in lowered.reason) is not is_kept


def test_what_a_request_may_have_stays_as_it_was_announced() -> None:
    model = finding(3)
    lowered = short_of_memory(model, 32, 16, "cuda:0")
    assert lowered.interface == model.interface
    assert lowered.is_lower_than(model)


def test_what_is_shown_after_a_lack_of_memory_is_kept() -> None:
    starved = short_of_memory(finding(3), 32, 16, "cpu")
    assert not unbatched(starved, "it mixes rows").chance

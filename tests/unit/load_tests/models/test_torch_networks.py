"""Networks are exported as our own runtime serves them, and answer as torch does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from load_tests.measuring.session import Size
from load_tests.models.torch_alone import TorchAlone, batch_of
from load_tests.models.torch_export import write_version
from load_tests.models.torch_networks import make_network
from load_tests.scenarios.gpu.cases import PLANS, Case
from load_tests.server import Inputs
from penstock.worker.runtimes.registry import describe, load_runtime


def alone(case: Case, samples: list[Inputs], seed: int = 1) -> TorchAlone:
    inputs = torch.from_numpy(batch_of(samples, len(samples)))
    return TorchAlone(make_network(case.size, case.dtype, seed, inputs), "cpu")


@pytest.mark.parametrize("case", PLANS[Size.SMALL].cases, ids=lambda case: case.name)
def test_an_exported_network_is_served_with_any_number_of_rows(case: Case, tmp_path: Path) -> None:
    samples = list(case.samples())
    inputs = torch.from_numpy(batch_of(samples, len(samples)))
    module = make_network(case.size, case.dtype, 1, inputs)
    network = TorchAlone(module, "cpu")
    right = network.right_answers(samples, case.tolerance)
    write_version(tmp_path / "1", module, samples[0], right.answers[0])
    runtime = load_runtime(
        tmp_path / "1",
        describe(tmp_path / "1"),
        max_batch_size=16,
        device="cpu",
        threads=1,
        allow_cpu_fallback=False,
    )
    (x,), (y,) = runtime.interface.inputs, runtime.interface.outputs
    assert (x.name, x.shape) == ("x", (-1, *samples[0].shape[1:]))
    assert x.datatype == ("FP32" if samples[0].dtype == np.float32 else "INT64")
    assert (y.name, y.datatype, y.shape) == ("y", "FP32", (-1, right.answers[0].shape[1]))
    assert runtime.interface.max_batch_size == 16
    for rows in (1, 3):
        found = runtime.execute({"x": batch_of(samples, rows)})
        assert isinstance(found, Sequence)
        (answers,) = found
        for index in range(rows):
            right.check(index, answers[index : index + 1])


@pytest.mark.parametrize("case", PLANS[Size.SMALL].cases, ids=lambda case: case.name)
def test_versions_answer_differently(case: Case) -> None:
    samples = list(case.samples())
    first, second = (
        alone(case, samples, seed).right_answers(samples, case.tolerance) for seed in (1, 2)
    )
    for index, answer in enumerate(second.answers):
        with pytest.raises(Exception, match="wrong answer"):
            first.check(index, answer)
    again = alone(case, samples, 1).right_answers(samples, case.tolerance)
    assert all((a == b).all() for a, b in zip(first.answers, again.answers, strict=True))

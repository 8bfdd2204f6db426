"""Models that pass their trial, and later give other rows than went in: nothing of them is cut."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shared.deployment import ReplicaSettings
from tests.fault.served import Served, served
from tests.zoo.onnx_cases import OPEN_SIGNATURE, graph
from tests.zoo.pyfunc_cases import UNNAMED, python, tensors_in
from tests.zoo.test_zoo import infer, max_batch_size
from worker.control import Found, Ready

ODD = 77.0
"""A row that begins with this is answered twice; no trial comes upon it."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("surprises") / "gateway.log") as system:
        yield system


def test_surplus_rows_are_passed_on_and_end_batching(system: Served, tmp_path: Path) -> None:
    predict = lambda self, x: x.repeat((x[:, 0] == 77.0) + 1, axis=0)  # noqa: E731 - pickled by value
    python(predict, tensors_in(4))(tmp_path / "m")
    settings = ReplicaSettings(threads=1, max_batch_size=8)
    child = system.spawn(tmp_path / "m", model="twice", settings=settings)
    try:
        ready = child.hear((Ready,))
        assert isinstance(ready, Ready)
        assert ready.finding.merges
        system.until_ready("twice", 1)
        assert max_batch_size(system.port, "twice") == 8
        rows = [np.full((1, 4), ODD if i % 5 == 0 else float(i)) for i in range(60)]
        with ThreadPoolExecutor(16) as callers:
            answers = list(
                callers.map(lambda x: infer(system.port, "twice", {UNNAMED: x})[0], rows)
            )
        for row, answer in zip(rows, answers, strict=True):
            np.testing.assert_array_equal(answer, row.repeat(2 if row[0, 0] == ODD else 1, axis=0))
        found = child.hear((Found,))
        assert isinstance(found, Found)
        assert found.finding.interface.max_batch_size == 0
        assert "not batched" in found.finding.reason
        assert max_batch_size(system.port, "twice") == 0
        both = np.array([[ODD] * 4, [1.0] * 4])
        (answer,) = infer(system.port, "twice", {UNNAMED: both})
        assert answer.shape == (3, 4)
    finally:
        child.end()


def test_surplus_rows_of_a_padded_batch_are_an_error_and_never_cut(
    system: Served, tmp_path: Path
) -> None:
    text = """(float[4,4] x) => (float[M,4] y) <float s = {77}> {
        is = Equal(x, s)
        odd = Cast<to=7>(is)
        any = ReduceMax<keepdims=0>(odd)
        one = Constant<value_ints=[1]>()
        many = Add(any, one)
        tail = Constant<value_ints=[1]>()
        times = Concat<axis=0>(many, tail)
        y = Tile(x, times)
    }"""
    graph(text)(tmp_path / "m")
    (tmp_path / "m" / "MLmodel").write_text(OPEN_SIGNATURE)
    settings = ReplicaSettings(threads=1, max_batch_size=8)
    child = system.spawn(tmp_path / "m", model="padded", settings=settings)
    try:
        ready = child.hear((Ready,))
        assert isinstance(ready, Ready)
        assert (ready.finding.static_rows, ready.finding.merges) == (4, True)
        system.until_ready("padded", 1)
        plain = np.ones((2, 4), np.float32)
        (answer,) = infer(system.port, "padded", {"x": plain})
        np.testing.assert_array_equal(answer, plain)
        with pytest.raises(AssertionError, match=r"500.*cannot be divided into rows"):
            infer(system.port, "padded", {"x": np.full((2, 4), ODD, np.float32)})
        child.hear((Found,))
        full = np.full((4, 4), ODD, np.float32)
        (answer,) = infer(system.port, "padded", {"x": full})
        assert answer.shape == (8, 4)
        with pytest.raises(AssertionError, match=r"400.*expected shape \[4,4\]"):
            infer(system.port, "padded", {"x": plain})
    finally:
        child.end()

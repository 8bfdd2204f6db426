"""Models that pass their trial and turn out to allow less: nothing is cut, and others follow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.worker.control.messages import Found, Lower, Ready
from penstock.worker.trial.unbatched import unbatched
from tests.fault.served import Served, served
from tests.support.waiting import wait_until
from tests.zoo.onnx_cases import OPEN_SIGNATURE, graph
from tests.zoo.pyfunc_cases import UNNAMED, python, tensors_in
from tests.zoo.test_zoo import infer, max_batch_size

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


def calls(system: Served, model: str, values: Iterable[float]) -> list[np.ndarray]:
    """What many callers at once are answered, each to a row of these numbers."""
    rows = [np.full((1, 4), float(value)) for value in values]
    with ThreadPoolExecutor(16) as callers:
        return list(callers.map(lambda x: infer(system.port, model, {UNNAMED: x})[0], rows))


def test_a_replica_is_held_to_what_another_one_found_out_and_clients_see_the_lower_at_once(
    system: Served, tmp_path: Path
) -> None:
    predict = lambda self, x: x.repeat((x[:, 0] == 77.0) + 1, axis=0)  # noqa: E731 - pickled by value
    python(predict, tensors_in(4))(tmp_path / "m")
    settings = ReplicaSettings(threads=1, max_batch_size=8)
    first, second = [
        system.spawn(tmp_path / "m", model="siblings", settings=settings) for _ in range(2)
    ]
    try:
        assert isinstance(first.hear((Ready,)), Ready)
        ready = second.hear((Ready,))
        assert isinstance(ready, Ready)
        assert ready.finding.rows_merged == 8
        system.until_ready("siblings", 2)
        assert max_batch_size(system.port, "siblings") == 8
        lowered = unbatched(ready.finding, "it mixes rows")
        second.tell(Lower(finding=lowered))
        found = second.hear((Found,))
        assert isinstance(found, Found)
        assert found.finding == lowered
        wait_until(
            lambda: max_batch_size(system.port, "siblings") == 0, 10, "the lowest is announced"
        )
        second.tell(Lower(finding=ready.finding))  # never raised
        for value, answer in zip(range(40), calls(system, "siblings", range(40)), strict=True):
            np.testing.assert_array_equal(answer, np.full((1, 4), float(value)))
        assert max_batch_size(system.port, "siblings") == 0
    finally:
        first.end()
        second.end()


def test_memory_that_runs_out_lowers_what_is_merged_and_is_told_and_a_request_may_be_as_large(
    system: Served, tmp_path: Path
) -> None:
    def predict(self: Any, x: Any) -> Any:
        time.sleep(0.01)  # so that the next batch gathers
        if len(x) > 2 and (x > 100).any() and (x < 500).all():
            raise MemoryError
        return x

    python(predict, tensors_in(4))(tmp_path / "m")
    settings = ReplicaSettings(threads=1, max_batch_size=8)
    child = system.spawn(tmp_path / "m", model="starved", settings=settings)
    try:
        ready = child.hear((Ready,))
        assert isinstance(ready, Ready)
        assert (ready.finding.rows_merged, ready.finding.reason) == (8, "")
        system.until_ready("starved", 1)
        values = [101.0 + each for each in range(40)]
        for value, answer in zip(values, calls(system, "starved", values), strict=True):
            np.testing.assert_array_equal(answer, np.full((1, 4), value))
        found = child.hear((Found,))
        assert isinstance(found, Found)
        assert found.finding.rows_merged < 8
        assert found.finding.chance, "another load on this machine may well find more memory"
        assert "memory ran out" in found.finding.reason
        large = np.full((8, 4), 600.0)
        np.testing.assert_array_equal(infer(system.port, "starved", {UNNAMED: large})[0], large)
        assert max_batch_size(system.port, "starved") == 8
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

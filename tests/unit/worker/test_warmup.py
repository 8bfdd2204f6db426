"""What a warm-up finds out about batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from shared.deployment import ModelInterface
from shared.messages import Parameters
from shared.tensor_spec import TensorSpec
from shared.tensors import AnyArray
from worker.latency_model import LatencyModel
from worker.outcomes import FailureKind
from worker.runtimes.base import ExecutionError, ModelLoadError
from worker.warmup import warm_up


class Fake:
    """Runs where `failure` is None for a number of rows."""

    provider = "fake"
    static_rows: int | None = None
    any_thread: bool = False

    def __init__(
        self, failure: Callable[[int], FailureKind | None], datatype: str = "FP32"
    ) -> None:
        self._failure = failure
        spec = TensorSpec(name="x", datatype=datatype, shape=(-1,))
        self.interface = ModelInterface(
            inputs=(spec,), outputs=(spec,), max_batch_size=12, platform="fake"
        )

    def execute(
        self, inputs: Mapping[str, AnyArray], parameters: Parameters = ()
    ) -> Sequence[AnyArray]:
        kind = self._failure(len(inputs["x"]))
        if kind is not None:
            raise ExecutionError(kind, "the reason")
        return [inputs["x"]]


def test_all_sizes_up_to_the_limit() -> None:
    fake = Fake(lambda rows: None)
    assert warm_up(fake, LatencyModel()).sizes == (1, 2, 4, 8, 12)
    assert (fake.interface.max_batch_size, fake.static_rows) == (12, None)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_the_only_size_that_runs_is_static(size: int) -> None:
    fake = Fake(lambda rows: None if rows == size else FailureKind.INPUT)
    warm_up(fake, LatencyModel())
    assert (fake.interface.max_batch_size, fake.static_rows) == (size, size)


def test_memory_sets_the_limit() -> None:
    fake = Fake(lambda rows: None if rows < 5 else FailureKind.OUT_OF_MEMORY)
    warm_up(fake, LatencyModel())
    assert (fake.interface.max_batch_size, fake.static_rows) == (4, None)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(FailureKind.INPUT, "with 1 row.*the reason"), (FailureKind.FATAL, "with 1 row.*the reason")],
)
def test_a_model_that_never_runs_is_not_served(kind: FailureKind, words: str) -> None:
    with pytest.raises(ModelLoadError, match=words):
        warm_up(Fake(lambda rows: kind), LatencyModel())


def test_sizes_in_no_order_are_not_served() -> None:
    fake = Fake(lambda rows: FailureKind.INPUT if rows in (4, 8) else None)
    with pytest.raises(ModelLoadError, match="runs with 1, 2, 12 rows, but failed with 4"):
        warm_up(fake, LatencyModel())


def test_a_model_may_refuse_made_up_text() -> None:
    fake = Fake(lambda rows: FailureKind.INPUT, "BYTES")
    assert warm_up(fake, LatencyModel()).sizes == ()
    assert (fake.interface.max_batch_size, fake.static_rows) == (12, None)

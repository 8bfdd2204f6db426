"""PyTorch modules as programs, scripts and pickles, and whether each may be batched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from tests.zoo.cases import BATCHED, NOT_BATCHED, Answers, Case, Inputs, Library
from tests.zoo.onnx_cases import numbers

UNNAMED = "input-0"
Run = Callable[[Any], Any]


def spec(shape: tuple[int, ...]) -> Schema:
    """One FP32 tensor without a name."""
    return Schema([TensorSpec(np.dtype("float32"), shape)])


def module(run: Run) -> torch.nn.Module:
    """A module that does this; made here, so that it is pickled by value."""

    class Made(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return run(x)

    return Made().eval()


def program(run: Run, example_rows: int) -> Callable[[Path], Library]:
    """torch.export's; static if the example has one row."""

    def make(folder: Path) -> Library:
        return _saved(folder, module(run), input_example=np.ones((example_rows, 4), np.float32))

    return make


def pickle(run: Run) -> Callable[[Path], Library]:
    """A pickled module."""
    return lambda folder: _saved(folder, module(run), serialization_format="pickle")


def script(run: Run) -> Callable[[Path], Library]:
    """A traced module."""

    def make(folder: Path) -> Library:
        traced = torch.jit.trace(module(run), torch.ones(3, 4))  # type: ignore[no-untyped-call]
        return _saved(folder, traced, serialization_format="pickle")

    return make


def _saved(folder: Path, made: Any, **options: Any) -> Library:
    signature = ModelSignature(spec((-1, 4)), spec((-1, 4)))
    mlflow.pytorch.save_model(
        made, str(folder), signature=signature, pip_requirements=[], **options
    )

    def library(inputs: Inputs) -> Answers:
        with torch.no_grad():
            return [np.asarray(made(torch.from_numpy(next(iter(inputs.values())).copy())))]

    return library


def rows(name: str = UNNAMED) -> list[Inputs]:
    """Four requests of a row, and one of three."""
    return [{name: numbers(count, 4)} for count in (1, 1, 1, 1, 3)]


CASES = [
    Case("pt2", program(lambda x: x * 2, 3), rows("x"), BATCHED),
    Case("pt2-static", program(lambda x: x * 2, 1), rows("x"), BATCHED),
    Case("pt2-softmax-of-rows", program(lambda x: x.softmax(0), 3), rows("x"), NOT_BATCHED),
    Case("script", script(lambda x: x.relu()), rows(), BATCHED),
    Case("script-sum-so-far", script(lambda x: x.cumsum(0)), rows(), NOT_BATCHED),
    Case("pickle", pickle(lambda x: x.tanh()), rows(), BATCHED),
    Case("pickle-centred", pickle(lambda x: x - x.mean(0)), rows(), NOT_BATCHED),
    Case("pickle-finds", pickle(lambda x: x[x[:, 0] > 0]), rows(), NOT_BATCHED),
]

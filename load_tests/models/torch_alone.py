"""A network in this process: for right answers, and as the bar that no server can beat.

Eager, as people call it, with torch's own settings and no compilation: what a replica executes is
the same operations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from load_tests.models.right_answers import RightAnswers
from load_tests.server import Inputs, Rows

CALLS_MIN = 3
UNMEASURED_CALLS = 3
"""The first calls of a batch size look for the best kernels, and allocate."""

NEARLY = 0.98
"""Of the best throughput; more rows than that takes cost latency and memory."""


@dataclass(frozen=True)
class Speed:
    """Rows per second in batches of a size.

    Attributes:
        copied: from arrays in main memory to arrays in main memory, as a server has and needs them.
        resident: with inputs and outputs that stay on the device.
    """

    copied: float
    resident: float


class TorchAlone:
    """One network on a device."""

    def __init__(self, module: nn.Module, device: str) -> None:
        self._module = module.to(device)
        self._device = device

    def run(self, inputs: Inputs) -> Rows:
        """Its answer."""
        with torch.inference_mode():
            output = self._module(torch.from_numpy(inputs).to(self._device))
            answer: Rows = output.cpu().numpy()
        return answer

    def right_answers(self, samples: Sequence[Inputs], tolerance: float) -> RightAnswers:
        """To each of the samples, alone.

        Raises:
            ServerError: if they are too much alike to tell a right answer from a wrong one.
        """
        right = RightAnswers([self.run(inputs) for inputs in samples], tolerance)
        right.demand_distinct()
        return right

    def speed(self, samples: Sequence[Inputs], rows: int, budget_s: float) -> Speed:
        """How fast it is with batches of so many rows, in about twice so much time."""
        batch = batch_of(samples, rows)
        copied = self._rows_per_s(lambda: self.run(batch), rows, budget_s)
        with torch.inference_mode():
            resident = torch.from_numpy(batch).to(self._device)
            return Speed(copied, self._rows_per_s(lambda: self._module(resident), rows, budget_s))

    def _rows_per_s(self, call: Callable[[], object], rows: int, budget_s: float) -> float:
        for _ in range(UNMEASURED_CALLS):
            call()
        self._finish()
        calls, begin = 0, time.perf_counter()
        while calls < CALLS_MIN or time.perf_counter() < begin + budget_s:
            call()
            calls += 1
        self._finish()
        return calls * rows / (time.perf_counter() - begin)

    def _finish(self) -> None:
        """A GPU works on when a call has returned."""
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)


def batch_of(samples: Sequence[Inputs], rows: int) -> Inputs:
    """So many rows: the samples, over and over."""
    batch: Inputs = np.concatenate([samples[row % len(samples)] for row in range(rows)])
    return batch


def best_batch(speeds: Mapping[int, Speed]) -> int:
    """The batch size with the most rows per second, copies included."""
    return max(speeds, key=lambda rows: speeds[rows].copied)


def limit_of_ours(speeds: Mapping[int, Speed], connections: int) -> int:
    """The smallest batch size that is nearly as fast as the best.

    Args:
        connections: half of them at most, so that a batch can gather while another is executed.
    """
    bar = NEARLY * speeds[best_batch(speeds)].copied
    sufficient = min(rows for rows, speed in speeds.items() if speed.copied >= bar)
    return max(1, min(sufficient, connections // 2))

"""The model alone: ONNX Runtime in this process with one thread, for right answers and as a bar."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from load_tests.report.percentiles import percentile
from load_tests.server import Model, Rows, ServerError

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4
"""Batches of different sizes add up in different orders, and JSON rounds."""

TIMING_CALLS_MIN = 20
TIMING_CALLS_MAX = 2000


class Reference:
    """One model."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = ort.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def run(self, rows: Rows) -> Rows:
        """The right answer."""
        (output,) = self._session.run(["y"], {"x": rows})
        right: Rows = output
        return right

    def check(self, rows: Rows, answer: Rows) -> None:
        """Compare an answer with the right one.

        Raises:
            ServerError: if it is another.
        """
        right = self.run(rows)
        if answer.shape != right.shape:
            raise ServerError(f"an answer of shape {answer.shape} instead of {right.shape}")
        if not np.allclose(answer, right, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE):
            worst = float(np.abs(answer - right).max())
            raise ServerError(f"a wrong answer: off by up to {worst:.3g}")

    def call_us(self, rows: Rows, budget_s: float = 1.0) -> float:
        """Median time of a call with these rows."""
        times: list[float] = []
        give_up = time.perf_counter() + budget_s
        while len(times) < TIMING_CALLS_MAX:
            begin = time.perf_counter()
            self._session.run(["y"], {"x": rows})
            end = time.perf_counter()
            times.append((end - begin) * 1e6)
            if end > give_up and len(times) >= TIMING_CALLS_MIN:
                break
        return percentile(np.array(times), 50)


def batch_of(model: Model, rows: int) -> Rows:
    """Some rows for timing."""
    return np.random.default_rng(rows).random((rows, model.width), dtype=np.float32)

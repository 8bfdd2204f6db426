"""What every peer runs: the model in onnxruntime on one thread of the CPU.

The scripts in this folder run in the virtual environment of their peer, not in ours, and know
their model and port by environment variables (`load_tests/peers/recipes.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime

MODEL_NAME = os.environ.get("PEER_MODEL_NAME", "")
MODEL_PATH = os.environ.get("PEER_MODEL_PATH", "")
WIDTH = int(os.environ.get("PEER_MODEL_WIDTH", "0"))
OUTPUT_WIDTH = int(os.environ.get("PEER_MODEL_OUTPUT_WIDTH", "0"))
PORT = int(os.environ.get("PEER_PORT", "0"))
MAX_BATCH_SIZE = int(os.environ.get("PEER_MAX_BATCH_SIZE", "32"))
MAX_QUEUE_DELAY_MS = int(os.environ.get("PEER_MAX_QUEUE_DELAY_MS", "3"))


class OnnxModel:
    """The model, loaded."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            MODEL_PATH, options, providers=["CPUExecutionProvider"]
        )

    def run(self, x: np.ndarray) -> np.ndarray:
        """The outputs of some rows."""
        return self._session.run(["y"], {"x": x})[0]

    def run_requests(self, requests: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs of several requests of one row or more each, by one call."""
        if len(requests) == 1:
            return [self.run(requests[0])]
        y = self.run(np.concatenate(requests))
        answers, start = [], 0
        for request in requests:
            answers.append(y[start : start + len(request)])
            start += len(request)
        return answers

"""BentoML: one worker whose adaptive batcher joins requests along the first dimension."""

from __future__ import annotations

from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import DType, Shape
from onnx_session import MAX_BATCH_SIZE, WIDTH, OnnxModel

Rows = Annotated[np.ndarray, DType("float32"), Shape((-1, WIDTH))]

MAX_LATENCY_MS = 1000
"""BentoML refuses requests that it expects to take longer; a batch waits for less, as it learns."""


@bentoml.service(workers=1, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Inference:
    """Runs the model on the rows of a batch of requests."""

    def __init__(self) -> None:
        self._model = OnnxModel()

    @bentoml.api(
        batchable=True,
        batch_dim=0,
        max_batch_size=MAX_BATCH_SIZE,
        max_latency_ms=MAX_LATENCY_MS,
    )
    def predict(self, inputs: Rows) -> np.ndarray:
        return self._model.run(inputs)

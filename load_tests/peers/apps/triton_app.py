"""Triton through PyTriton, with its dynamic batcher; PyTriton calls us with batches made."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from onnx_session import (
    MAX_BATCH_SIZE,
    MAX_QUEUE_DELAY_MS,
    MODEL_NAME,
    OUTPUT_WIDTH,
    PORT,
    WIDTH,
    OnnxModel,
)
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

MICROSECONDS_PER_MILLISECOND = 1000


def main() -> None:
    model = OnnxModel()

    @batch
    def infer(x: np.ndarray) -> list[np.ndarray]:
        return [model.run(x)]

    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=PORT,
        allow_grpc=False,
        allow_metrics=False,
        log_verbose=0,
    )
    delay_us = MAX_QUEUE_DELAY_MS * MICROSECONDS_PER_MILLISECOND
    with Triton(config=config, workspace=Path(os.environ["TMPDIR"]) / "workspace") as triton:
        triton.bind(
            model_name=MODEL_NAME,
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=(WIDTH,))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(OUTPUT_WIDTH,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH_SIZE,
                batcher=DynamicBatcher(max_queue_delay_microseconds=delay_us),
            ),
            strict=False,
        )
        triton.serve()


if __name__ == "__main__":
    main()

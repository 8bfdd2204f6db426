"""mosec as it comes: its own JSON, and a worker as its documentation writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from mosec import Server, Worker
from onnx_session import MAX_BATCH_SIZE, MAX_QUEUE_DELAY_MS, OnnxModel


class Inference(Worker):
    """Runs the model on the rows of a batch of requests."""

    def __init__(self) -> None:
        super().__init__()
        self._model = OnnxModel()

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows = [np.array(request["inputs"], np.float32) for request in data]
        return [{"outputs": answer.tolist()} for answer in self._model.run_requests(rows)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Inference, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=MAX_QUEUE_DELAY_MS
    )
    server.run()

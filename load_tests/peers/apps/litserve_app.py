"""LitServe: one API process, one inference process that makes the batches."""

from __future__ import annotations

import litserve
import numpy as np
from onnx_session import MAX_BATCH_SIZE, MAX_QUEUE_DELAY_MS, PORT, OnnxModel

MILLISECONDS_PER_SECOND = 1000


class Inference(litserve.LitAPI):
    """Runs the model on the rows of a batch of requests."""

    def setup(self, device: str) -> None:
        self._model = OnnxModel()

    # LitServe makes FastAPI validate by these two annotations; without any it takes JSON as it is.
    def decode_request(self, request):
        return np.array(request["inputs"], np.float32)

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs  # requests may have several rows: `predict` joins them

    def predict(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return self._model.run_requests(inputs)

    def unbatch(self, output: list[np.ndarray]) -> list[np.ndarray]:
        return output

    def encode_response(self, output):
        return {"outputs": output.tolist()}


if __name__ == "__main__":
    api = Inference(
        max_batch_size=MAX_BATCH_SIZE,
        batch_timeout=MAX_QUEUE_DELAY_MS / MILLISECONDS_PER_SECOND,
    )
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )

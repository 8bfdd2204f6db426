"""Ray Serve: one proxy and one replica, which batches what its requests ask for."""

from __future__ import annotations

import os
import signal
from threading import Event

import numpy as np
import orjson
import ray
from onnx_session import MAX_BATCH_SIZE, MAX_QUEUE_DELAY_MS, PORT, OnnxModel
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

MILLISECONDS_PER_SECOND = 1000
MAX_ONGOING_REQUESTS = 512
OBJECT_STORE_BYTES = 128 * 1024 * 1024
CPUS = 2
"""What Ray may reckon with, not what it uses: the proxy and the replica."""


@serve.deployment(num_replicas=1, max_ongoing_requests=MAX_ONGOING_REQUESTS)
class Inference:
    """Runs the model on the rows of a batch of requests."""

    def __init__(self) -> None:
        self._model = OnnxModel()

    @serve.batch(
        max_batch_size=MAX_BATCH_SIZE,
        batch_wait_timeout_s=MAX_QUEUE_DELAY_MS / MILLISECONDS_PER_SECOND,
    )
    async def predict(self, requests: list[np.ndarray]) -> list[np.ndarray]:
        return self._model.run_requests(requests)

    async def __call__(self, request: Request) -> Response:
        rows = np.array(orjson.loads(await request.body())["inputs"], np.float32)
        answer = {"outputs": await self.predict(rows)}
        content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(content, media_type="application/json")


def main() -> None:
    stopped = Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    ray.init(
        num_cpus=CPUS,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["TMPDIR"],
        logging_level="warning",
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "access_log": False})
    serve.run(Inference.bind(), route_prefix="/predict")
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()

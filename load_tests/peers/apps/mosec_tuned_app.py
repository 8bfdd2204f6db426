"""mosec: one worker that reads JSON and msgpack, by orjson and msgpack.

A worker sees a body but neither its path nor its headers. Two workers on two paths would be two
inference processes, so one worker tells the encodings apart by the first byte: `{` begins a JSON
object and no msgpack map.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import orjson
from mosec import Server, Worker
from onnx_session import MAX_BATCH_SIZE, MAX_QUEUE_DELAY_MS, OnnxModel

JSON_OBJECT = b"{"

Item = tuple[bool, np.ndarray]
"""Whether a body was or shall be JSON, and the rows in it."""


class Inference(Worker):
    """Runs the model on the rows of a batch of requests."""

    def __init__(self) -> None:
        super().__init__()
        self._model = OnnxModel()

    def deserialize(self, data: bytes) -> Item:
        if data[:1] == JSON_OBJECT:
            return True, np.array(orjson.loads(data)["inputs"], np.float32)
        message: dict[str, Any] = msgpack.unpackb(data)
        return False, np.frombuffer(message["data"], np.float32).reshape(message["shape"])

    def forward(self, data: list[Item]) -> list[Item]:
        answers = self._model.run_requests([rows for _, rows in data])
        return [(is_json, rows) for (is_json, _), rows in zip(data, answers, strict=True)]

    def serialize(self, data: Item) -> bytes:
        is_json, rows = data
        if is_json:
            return orjson.dumps({"outputs": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
        return msgpack.packb({"shape": rows.shape, "data": rows.tobytes()})


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Inference, num=1, max_batch_size=MAX_BATCH_SIZE, max_wait_time=MAX_QUEUE_DELAY_MS
    )
    server.run()

"""TorchServe: a handler in the form of a module, which gets the requests of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from onnx_session import OnnxModel


class Handler:
    """Runs the model on the rows of a batch of requests."""

    def initialize(self, context: Any) -> None:
        self._model = OnnxModel()

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """TorchServe leaves JSON to us (`decode_input_request`); its own would be indented."""
        answers = self._model.run_requests(
            [np.array(orjson.loads(request["body"])["inputs"], np.float32) for request in data]
        )
        for position in range(len(answers)):
            context.set_response_content_type(position, "application/json")
        return [
            orjson.dumps({"outputs": rows}, option=orjson.OPT_SERIALIZE_NUMPY) for rows in answers
        ]

"""MLServer: a runtime of our own (MLServer has none for ONNX) in one parallel worker."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_session import OnnxModel


class OnnxRuntime(MLModel):
    """Runs the model on the rows of a batch, which MLServer has joined."""

    async def load(self) -> bool:
        self._onnx = OnnxModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("y", self._onnx.run(rows))
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])

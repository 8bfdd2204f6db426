"""Plain FastAPI: the model is called in the endpoint, once per request, on the event loop."""

from __future__ import annotations

import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from onnx_session import PORT, OnnxModel

app = FastAPI(openapi_url=None)
model = OnnxModel()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """`{"inputs": [[...]]}` to `{"outputs": [[...]]}`."""
    rows = np.array(orjson.loads(await request.body())["inputs"], np.float32)
    answer = {"outputs": model.run(rows)}
    content = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=PORT,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )

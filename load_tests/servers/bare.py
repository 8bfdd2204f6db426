"""The bar below everything: uvicorn that reads a request and gives a fixed answer.

No model, no queue, no validation; what any Python server of this kind pays for HTTP alone. The
answer is as long as ours for the same model.

`python -m load_tests.servers.bare PORT FILE` is the server itself.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from load_tests.child import module_command, module_environment
from load_tests.models.reference import Reference
from load_tests.models.small import sample_rows
from load_tests.server import Encoding, HttpRequest, Model, Rows, ServerError
from load_tests.servers import oip
from load_tests.servers.penstock import free_port
from load_tests.servers.processes import descendants
from load_tests.servers.verification import post

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.02


@dataclass(frozen=True)
class BareUvicorn:
    """See `Server`; its answers are not verified, for they are all the same."""

    encoding: Encoding = Encoding.JSON
    name: str = "bare uvicorn"

    @property
    def encodings(self) -> Sequence[Encoding]:
        """One: answers are as long as in this one."""
        return (self.encoding,)

    def start(self, model: Model, work_dir: Path) -> RunningBare:
        """See `Server`."""
        rows = sample_rows(model, 1)[0]
        answer = work_dir / "answer"
        answer.write_bytes(_answer(model, self.encoding, Reference(model.path).run(rows)))
        port = free_port()
        with (work_dir / "log").open("wb") as log:
            process = subprocess.Popen(
                module_command("servers.bare", str(port), str(answer)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=module_environment(),
                start_new_session=True,
            )
        running = RunningBare(process, model.name, port)
        try:
            running.until_answered(self.encoding, rows)
        except BaseException:
            running.stop()
            raise
        return running


class RunningBare:
    """See `Running`."""

    def __init__(self, process: subprocess.Popen[bytes], model: str, port: int) -> None:
        self._process = process
        self._model = model
        self._port = port

    @property
    def port(self) -> int:
        """See `Running`."""
        return self._port

    @property
    def version(self) -> str:
        """Of uvicorn."""
        return importlib.metadata.version("uvicorn")

    def pids(self) -> Mapping[str, Sequence[int]]:
        """See `Running`."""
        return {"server": descendants(self._process.pid)}

    def request(self, encoding: Encoding, rows: Rows) -> HttpRequest:
        """See `Running`."""
        return oip.infer_request(self._model, encoding, rows)

    def answer(self, encoding: Encoding, headers: Mapping[str, str], body: bytes) -> Rows:
        """See `Running`."""
        raise ServerError("a fixed answer is no answer")

    def until_answered(self, encoding: Encoding, rows: Rows) -> None:
        """Wait until it answers.

        Raises:
            ServerError: if it does not in time.
        """
        give_up = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < give_up and self._process.poll() is None:
            try:
                post(self._port, self.request(encoding, rows))
                return
            except (OSError, http.client.HTTPException):
                time.sleep(POLL_S)
        raise ServerError("bare uvicorn does not answer")

    def stop(self) -> None:
        """See `Running`."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _answer(model: Model, encoding: Encoding, output: Rows) -> bytes:
    tensor: dict[str, Any] = {"name": "y", "datatype": "FP32", "shape": list(output.shape)}
    raw = b""
    if encoding is Encoding.JSON:
        tensor["data"] = [float(str(number)) for number in output.ravel()]
    else:
        raw = output.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
    document = {"model_name": model.name, "model_version": "1", "outputs": [tensor]}
    return json.dumps(document, separators=(",", ":")).encode() + raw


Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


def fixed_app(answer: bytes) -> Callable[[Any, Receive, Send], Awaitable[None]]:
    """An ASGI application that reads bodies to their end and answers the same every time."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer)).encode()),
    ]

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


def main() -> None:
    """Serve until SIGTERM."""
    port, answer = int(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    uvicorn.run(
        fixed_app(answer),
        host="127.0.0.1",
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()

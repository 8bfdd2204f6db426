"""A service in memory for the HTTP front, and a real server around it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import httpx
from prometheus_client import CollectorRegistry

from penstock.gateway.clients.unread_answers import ClientBounds
from penstock.gateway.http import errors
from penstock.gateway.http.app import GatewayApp, create_app
from penstock.gateway.http.metrics import HttpMetrics
from penstock.gateway.http.server.connection import DrainState, GracefulConnection
from penstock.gateway.http.server.direct import DirectConnection, ShortWay
from penstock.gateway.http.server.server import GracefulServer
from penstock.gateway.http.settings import HttpSettings
from penstock.gateway.inference.port import CallOutcome
from penstock.gateway.inference.types import (
    DeployedModel,
    InferenceAnswer,
    InferenceCall,
    ModelMetadata,
)
from penstock.gateway.jobs.clients.service import JobService
from penstock.gateway.memory.held_bytes import HeldBytes
from penstock.shared.contracts.deployment import ModelInterface
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from penstock.shared.contracts.routing import JobsPolicy, VersionRoute
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.shared.process.log_limit import LogLimit
from penstock.shared.wire.tensors import AnyArray, Tensor, array_from_tensor, tensor_from_array

Function = Callable[[dict[str, AnyArray]], dict[str, AnyArray]]


def spec(name: str, datatype: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def interface(
    inputs: list[TensorSpec], outputs: list[TensorSpec] | None = None, max_batch_size: int = 0
) -> ModelInterface:
    return ModelInterface(
        inputs=tuple(inputs),
        outputs=tuple(inputs if outputs is None else outputs),
        max_batch_size=max_batch_size,
        platform="onnxruntime_onnx",
    )


@dataclass
class FakeModel:
    """A model as a function on arrays."""

    interface: ModelInterface
    function: Function
    versions: tuple[str, ...] = ("2", "1")


def echo(inputs: dict[str, AnyArray]) -> dict[str, AnyArray]:
    return inputs


DOUBLE = FakeModel(
    interface([spec("x", "FP32", -1, 4)], [spec("y", "FP32", -1, 4)], max_batch_size=8),
    lambda arrays: {"y": arrays["x"] * 2},
)
TEXTS = FakeModel(
    interface([spec("text", "BYTES", -1), spec("n", "INT64", -1)], max_batch_size=4), echo
)


@dataclass
class FakeInference:
    """An `Inference` that runs models at once, or fails or hangs when told to."""

    models: dict[str, FakeModel] = field(
        default_factory=lambda: {"double": DOUBLE, "my model": DOUBLE, "texts": TEXTS}
    )
    is_ready: bool = True
    failure: Exception | None = None
    hang: bool = False
    calls: list[InferenceCall] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    jobs_policy: JobsPolicy = "shared"
    submitted: int = 0  # of the calls, those by `submit`

    def why_not_ready(self) -> str:
        return "" if self.is_ready else "told not to be"

    def model_ready(self, model: str, version: str | None) -> bool:
        self.metadata(model, version)
        return self.is_ready

    def metadata(self, model: str, version: str | None) -> ModelMetadata:
        found = self.models.get(model)
        if found is None:
            raise PenstockError(ErrorCode.MODEL_NOT_FOUND, f"no model {model!r}")
        if version is not None and version not in found.versions:
            raise PenstockError(ErrorCode.VERSION_NOT_FOUND, f"no version {version!r}")
        return ModelMetadata(model, found.versions, found.interface, self.jobs_policy == "only")

    def route(self, model: str, version: str | None) -> VersionRoute:
        versions = self.metadata(model, version).versions
        chosen = version or versions[0]
        revision = f"{chosen}-revision"
        return VersionRoute(version=chosen, revision=revision, jobs=self.jobs_policy)

    def deployed_models(self) -> tuple[DeployedModel, ...]:
        return tuple(
            DeployedModel(name, tuple((v, self.is_ready) for v in model.versions), "")
            for name, model in sorted(self.models.items())
        )

    async def infer(self, call: InferenceCall) -> InferenceAnswer:
        self._begin(call)
        if self.hang:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        return self._run(call)

    def submit(self, call: InferenceCall, on_outcome: Callable[[CallOutcome], None]) -> int:
        self.submitted += 1
        self._begin(call)
        if not self.hang:
            asyncio.get_running_loop().call_soon(on_outcome, self._run(call))
        return len(self.calls)

    def cancel(self, call_id: int) -> None:
        self.cancelled.set()

    def _begin(self, call: InferenceCall) -> None:
        self.calls.append(call)
        self.started.set()
        if self.failure is not None:
            raise self.failure

    def _run(self, call: InferenceCall) -> InferenceAnswer:
        model = self.models[call.model]
        arrays = {tensor.name: array_from_tensor(tensor) for tensor in call.inputs}
        results = model.function(arrays)
        names = call.outputs or [output.name for output in model.interface.outputs]
        datatypes = {output.name: output.datatype for output in model.interface.outputs}
        outputs = tuple(_tensor(name, datatypes[name], results[name]) for name in names)
        version = call.version or model.versions[0]
        rows = call.inputs[0].rows if call.inputs else 1
        return InferenceAnswer(call.model, version, outputs, 0.001, 0.002, 1, rows * 2)


def _tensor(name: str, datatype: str, array: AnyArray) -> Tensor:
    tensor = tensor_from_array(name, array)
    return replace(tensor, datatype="BF16") if datatype == "BF16" else tensor  # its bits


def app_of(
    service: FakeInference,
    settings: HttpSettings | None = None,
    registry: CollectorRegistry | None = None,
    jobs: JobService | None = None,
    held: HeldBytes | None = None,
) -> GatewayApp:
    settings = settings or HttpSettings()
    errors._limit = LogLimit()  # of this process: what other tests wrote does not count
    metrics = HttpMetrics(registry or CollectorRegistry(), settings.max_metric_series)
    return create_app(service, settings, metrics, jobs, held)


def client_of(app: GatewayApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@contextmanager
def serving(
    app: GatewayApp, *, direct: bool = True, bounds: ClientBounds | None = None
) -> Iterator[int]:
    """Serve an application from a thread of its own; gives the port.

    Args:
        bounds: of what clients may make it hold; None: the usual ones.
        direct: inference takes the short way where it can, as in a gateway; else never.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    short = partial(DirectConnection, way=ShortWay(app.infer, app.scoring))
    bounds = bounds or ClientBounds()
    bounds.held = app.infer.held
    connection = short if direct else GracefulConnection
    server = GracefulServer(app, DrainState(0.1, 5.0), connection, bounds)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]  # connections wait in the backlog until it accepts
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(timeout=10)
        listener.close()


def x_input(**changes: object) -> dict[str, object]:
    """The input of model `double`, one row, with some members changed."""
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4.5], **changes}


def tensor_named(tensors: tuple[Tensor, ...], name: str) -> AnyArray:
    return next(array_from_tensor(tensor) for tensor in tensors if tensor.name == name)

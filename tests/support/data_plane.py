"""A gateway's service in this process and real replica processes around it; no Redis, no MLflow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.gateway.dispatch.limits import DispatchLimits
from penstock.gateway.inference.service import InferenceService
from penstock.gateway.inference.types import InferenceAnswer, InferenceCall
from penstock.shared.contracts.deployment import Duty, ReplicaSettings
from penstock.shared.contracts.routing import ModelRoute, VersionRoute
from penstock.shared.process.clock import SystemClock
from penstock.shared.process.lifecycle import environment_of_child
from penstock.shared.process.tracing import Tracer
from penstock.shared.wire.tensors import AnyArray, array_from_tensor, tensor_from_array
from penstock.worker.control.messages import (
    DrainNow,
    GatewayAddress,
    JobsStart,
    LoadFailed,
    Ready,
    Start,
    ToAgent,
    ToReplica,
    decode_for_agent,
    encode_line,
)
from tests.support.waiting import eventually

WAIT_S = 30.0


@dataclass
class ReplicaChild:
    """A replica process, held as its agent would hold it."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    def tell(self, message: ToReplica) -> None:
        self.control.sendall(encode_line(message))

    def hear(self, kind: type[ToAgent] | tuple[type[ToAgent], ...]) -> ToAgent:
        """The next message of a kind; others are passed over."""
        self.control.settimeout(WAIT_S)
        with self.control.makefile("rb", buffering=0) as lines:
            for line in lines:
                message = decode_for_agent(line)
                if isinstance(message, kind):
                    return message
        raise AssertionError("the replica closed its control socket")

    def forget(self) -> None:
        """Drop what it has said so far: the next that is heard is news."""
        self.control.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self.control.recv(65536):
                pass

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(WAIT_S)

    def end(self) -> None:
        self.control.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        if self.process.poll() is None:
            self.kill()


class ReplicaChildren:
    """Replica processes that dial one gateway; there is no agent, which would replace them."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.children: list[ReplicaChild] = []

    def spawn(
        self,
        folder: Path,
        *,
        model: str = "m",
        version: str = "1",
        generation: int = 1,
        settings: ReplicaSettings | None = None,
        gateways: tuple[GatewayAddress, ...] | None = None,
        duty: Duty = "both",
        command: Sequence[str] = (sys.executable, "-m", "penstock.worker.replica"),
        jobs: JobsStart | None = None,
        error_details: bool = False,
    ) -> ReplicaChild:
        """Start a replica that announces itself as the stable version; not yet ready."""
        ours, theirs = socket.socketpair()
        number = len(self.children)
        process = subprocess.Popen(
            [*command, "--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**environment_of_child(), "PENSTOCK_LOG_LEVEL": "warning"},
            start_new_session=True,
        )
        theirs.close()
        child = ReplicaChild(process, ours)
        self.children.append(child)
        revision = f"{model}/{version}"
        route = VersionRoute(version=version, revision=revision)
        start = Start(
            key=f"{revision}@w#{number}",
            replica=f"replica-{number}",
            worker="w",
            model=model,
            version=version,
            revision=revision,
            model_path=str(folder),
            settings=settings or ReplicaSettings(threads=1),
            device="cpu",
            duty=duty,
            gateways=gateways or (GatewayAddress(gateway="g", endpoint=self.endpoint),),
            route=ModelRoute(model=model, generation=generation, versions=(route,)),
            jobs=jobs,
            error_details=error_details,
        )
        child.tell(start)
        return child

    async def end(self) -> None:
        for child in self.children:
            await asyncio.to_thread(child.end)


class DataPlane(ReplicaChildren):
    """Replicas of one model and the service that calls them."""

    def __init__(self, service: InferenceService, endpoint: str) -> None:
        super().__init__(endpoint)
        self.service = service

    async def join(self, folder: Path, **options: object) -> ReplicaChild:
        """Start a replica and wait until the gateway can call it."""
        child = self.spawn(folder, **options)  # type: ignore[arg-type]
        message = await asyncio.to_thread(child.hear, (Ready, LoadFailed))
        assert isinstance(message, Ready), message
        alive = sum(other.process.poll() is None for other in self.children)
        await eventually(lambda: sum(self.service.ready_counts().values()) >= alive)
        return child

    async def infer(self, array: AnyArray, timeout_s: float = 20.0) -> AnyArray:
        answer = await self.answer(array, timeout_s)
        return array_from_tensor(answer.outputs[0])

    async def answer(self, array: AnyArray, timeout_s: float = 20.0) -> InferenceAnswer:
        inputs = (tensor_from_array("x", array),)
        return await self.service.infer(InferenceCall("m", None, inputs, timeout_s=timeout_s))

    def drain(self, child: ReplicaChild) -> None:
        child.tell(DrainNow())


@contextlib.asynccontextmanager
async def data_plane(
    limits: DispatchLimits | None = None,
    tracer: Tracer | None = None,
    endpoint: str = "",
) -> AsyncIterator[DataPlane]:
    """A running service and its replicas; all ended afterwards. By default on a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="ps-") as folder:
        endpoint = endpoint or f"ipc://{folder}/g.ipc"
        service = InferenceService(
            endpoint,
            "g-1",
            limits or DispatchLimits(),
            silence_s=1.5,
            ready_when="any",
            clock=SystemClock(),
            on_change=lambda: None,
            tracer=tracer,
        )
        task = asyncio.create_task(service.run())
        plane = DataPlane(service, endpoint)
        gc.collect()
        gc.freeze()  # as a gateway does; all that tests ever imported would be searched meanwhile
        try:
            yield plane
        finally:
            gc.unfreeze()
            await plane.end()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def rows(*numbers: float) -> AnyArray:
    """A FP32 array with one row of two equal columns per number."""
    return np.array([[number, number] for number in numbers], np.float32)

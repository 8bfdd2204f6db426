"""A gateway process with real replica processes behind it.

No Redis and no agents: the gateway goes by what its replicas announce.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from penstock.shared.process.lifecycle import environment_of_child
from tests.e2e.system import free_port, own_environment
from tests.fault.connections import ANSWER_S, Answer, Connection, connect
from tests.support.data_plane import ReplicaChild, ReplicaChildren

NOBODY = "redis://127.0.0.1:9/0"
START_S = 30.0


class GatewayProcess(ReplicaChildren):
    """One gateway process, and its replicas."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        super().__init__(f"ipc://{folder}/g.ipc")
        self.port = free_port()
        self._log = folder / "gateway.log"
        given = {
            "endpoint": self.endpoint,
            "port": self.port,
            "redis_url": NOBODY,
            "startup_wait_s": 0.0,
            **settings,
        }
        variables = {f"PENSTOCK_{name.upper()}": str(value) for name, value in given.items()}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "penstock.deploy.local", "gateway"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment_of_child(), **own_environment(), **variables}
                | {"PENSTOCK_PARENT_PID": str(os.getpid())},
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it logged."""
        return self._log.read_text(errors="replace")

    async def connect(self) -> Connection:
        """A new connection."""
        return await connect(self.port)

    async def connections(self, count: int) -> list[Connection]:
        """Many of them."""
        return [await self.connect() for _ in range(count)]

    async def get(self, path: str) -> Answer:
        """GET a path, on a connection of its own."""
        connection = await self.connect()
        try:
            connection.get(path)
            return await connection.answer()
        finally:
            connection.leave()

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = (await self.get("/metrics")).body.decode()
        return sum(float(row) for row in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    async def metric_is(
        self, name: str, value: float, timeout_s: float = ANSWER_S, *, above: float = 0
    ) -> None:
        """Wait until a metric has a value, or is at most so much above it."""
        async with asyncio.timeout(timeout_s):
            while not value <= await self.metric(name) <= value + above:
                await asyncio.sleep(0.02)

    async def joined(self, folder: Path, count: int = 1, **options: object) -> list[ReplicaChild]:
        """Start replicas of a model, and wait until the gateway can call all of them."""
        children = [self.spawn(folder, **options) for _ in range(count)]  # type: ignore[arg-type]
        async with asyncio.timeout(START_S):
            while not await self._answers():
                await asyncio.sleep(0.05)
        await self.metric_is("penstock_gateway_ready_replicas", len(self.children), START_S)
        return children

    async def _answers(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return (await self.get("/v2/health/live")).status == 200
        except OSError:
            return False

    def ask_to_leave(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_code(self, timeout_s: float) -> int:
        """Wait for its end."""
        return await asyncio.to_thread(self.process.wait, timeout_s)

    async def end(self) -> None:
        """End everything."""
        await super().end()
        self.process.kill()
        self.process.wait()


@contextlib.asynccontextmanager
async def gateway_process(**settings: object) -> AsyncIterator[GatewayProcess]:
    """A gateway that starts, with settings of it; all is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="ps-") as folder:
        gateway = GatewayProcess(Path(folder), settings)
        try:
            yield gateway
        finally:
            await gateway.end()

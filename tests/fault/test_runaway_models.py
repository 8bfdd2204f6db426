"""Models that do not end, and replicas that stand still: who is killed, and who is not."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from penstock.shared.contracts.deployment import ReplicaSettings
from penstock.shared.contracts.errors import ErrorCode, PenstockError
from tests.support import mlflow_models as models
from tests.support.agent_plane import AgentPlane, agent_plane


async def restarts_are(plane: AgentPlane, count: int) -> None:
    """Wait until so many replicas were replaced."""
    async with asyncio.timeout(60):
        while await plane.restarts() < count:
            await asyncio.sleep(0.05)


async def test_an_endless_loop_on_one_input_fails_alone(tmp_path: Path) -> None:
    folder = models.straying(tmp_path / "m")
    limited = ReplicaSettings(threads=1, max_batch_size=16, execution_timeout_ms=1000)
    async with agent_plane(folder, 2, limited) as plane:
        # While these run, the others gather.
        busy = [asyncio.create_task(plane.infer(30)) for _ in range(2)]
        await asyncio.sleep(0.1)
        good = [plane.infer(number) for number in range(15)]
        *answers, failure = await asyncio.gather(*good, plane.infer(99), return_exceptions=True)
        assert answers == [number * 10 for number in range(15)]
        assert isinstance(failure, PenstockError)
        assert failure.code is ErrorCode.REPLICA_CRASHED
        assert await asyncio.gather(*busy) == [300, 300]
        await plane.all_ready(2)
        assert await plane.restarts() == 2
        assert await plane.kills() == {"execution_timeout": 2}
        assert await plane.infer(7) == 70


async def test_holding_the_interpreter_for_seconds_kills_nobody(tmp_path: Path) -> None:
    folder = models.straying(tmp_path / "m")
    async with agent_plane(folder, 1, ReplicaSettings(threads=1)) as plane:
        (before,) = await plane.replicas()
        long = asyncio.create_task(plane.infer(55))
        await asyncio.sleep(0.5)
        others = [asyncio.create_task(plane.infer(number)) for number in range(8)]
        assert await long == 550
        assert await asyncio.gather(*others) == [number * 10 for number in range(8)]
        (after,) = await plane.all_ready(1)
        assert (after.pid, after.restarts) == (before.pid, 0)
        assert await plane.kills() == {}


async def test_holding_the_interpreter_beyond_the_execution_timeout_does(tmp_path: Path) -> None:
    folder = models.straying(tmp_path / "m")
    limited = ReplicaSettings(threads=1, execution_timeout_ms=1000)
    async with agent_plane(folder, 1, limited) as plane:
        (before,) = await plane.replicas()
        call = asyncio.create_task(plane.infer(55, timeout_s=4.0))
        await restarts_are(plane, 1)
        await asyncio.gather(call, return_exceptions=True)
        (after,) = await plane.all_ready(1)
        assert after.pid != before.pid
        assert "execution_timeout" in await plane.kills()


async def test_a_batch_that_nobody_waits_for_any_more_is_ended(tmp_path: Path) -> None:
    folder = models.straying(tmp_path / "m")
    async with agent_plane(folder, 1, ReplicaSettings(threads=1), abandoned_grace_s=0.5) as plane:
        (call,) = await asyncio.gather(plane.infer(99, timeout_s=1.0), return_exceptions=True)
        assert isinstance(call, PenstockError)
        assert call.code is ErrorCode.DEADLINE_EXCEEDED
        await restarts_are(plane, 1)
        await plane.all_ready(1)
        assert await plane.infer(7) == 70
        assert await plane.kills() == {"hung": 1}


async def test_a_replica_that_stands_still_is_replaced(tmp_path: Path) -> None:
    folder = models.straying(tmp_path / "m")
    async with agent_plane(folder, 2, ReplicaSettings(threads=1), hung_after_s=3.0) as plane:
        first, second = await plane.replicas()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGSTOP)
        answers = await asyncio.gather(*[plane.infer(number) for number in range(16)])
        assert answers == [number * 10 for number in range(16)]
        await restarts_are(plane, 1)
        replaced, kept = await plane.all_ready(2)
        assert replaced.pid != first.pid
        assert kept.pid == second.pid
        assert await plane.kills() == {"hung": 1}

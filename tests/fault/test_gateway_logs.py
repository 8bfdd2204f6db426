"""What a gateway says, and how often: out of file descriptors, requests that are refused."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

from penstock.shared.process.log_limit import LINES_MAX
from tests.fault.gateway_process import gateway_process

MORE = 30
"""Descriptors that it may have beyond those that it has."""


def open_descriptors(pid: int) -> int:
    """How many a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def test_a_gateway_says_that_it_has_no_file_descriptors_left(tmp_path: Path) -> None:
    async with gateway_process() as gateway:
        await gateway.joined(tmp_path, 0)
        pid = gateway.process.pid
        limit = open_descriptors(pid) + MORE
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        held = await gateway.connections(2 * MORE)
        async with asyncio.timeout(20):
            while "out of file descriptors" not in gateway.log:
                await asyncio.sleep(0.05)
        for connection in held:
            connection.leave()
        async with asyncio.timeout(20):
            while "there are file descriptors again" not in gateway.log:
                await asyncio.sleep(0.05)
        assert (await gateway.get("/v2/health/live")).status == 200
        assert gateway.log.count("file descriptors") == 2


async def test_requests_that_are_refused_all_the_time_fill_no_log(tmp_path: Path) -> None:
    async with gateway_process() as gateway:
        await gateway.joined(tmp_path, 0)
        for _ in range(3 * LINES_MAX):
            assert (await gateway.get("/v2/models/none")).status == 404
        assert 0 < gateway.log.count("request refused") <= LINES_MAX

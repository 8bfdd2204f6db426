"""Real children: an outcome, or words about why there is none, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.shared.process.child_task import run_child_task
from tests.unit.shared.process.echo_task import EchoOutcome, EchoRequest

ECHO = ("echoing", "tests.unit.shared.process.echo_task")


async def test_an_outcome_apart_from_what_is_printed(tmp_path: Path) -> None:
    request = EchoRequest(do="echo", say="x" * 1_000_000)
    outcome = await run_child_task(*ECHO, tmp_path, request, EchoOutcome)
    assert outcome == EchoOutcome(said=request.say, folder=str(tmp_path))


async def test_a_death_is_an_outcome_and_its_traceback_is_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = EchoRequest(do="die", say="of no reason")
    outcome = await run_child_task(*ECHO, tmp_path, request, EchoOutcome)
    assert outcome.error == "the echoing process died (1)"
    logged = "".join(capfd.readouterr())
    assert "RuntimeError: of no reason" in logged


async def test_what_takes_too_long_is_killed_whole(tmp_path: Path) -> None:
    request = EchoRequest(do="hang")
    outcome = await run_child_task(*ECHO, tmp_path, request, EchoOutcome, timeout_s=4)
    assert outcome.error == "no end after 4 s"
    await all_gone((tmp_path / "pids").read_text().split())


async def test_what_nobody_waits_for_any_more_is_killed_whole(tmp_path: Path) -> None:
    request = EchoRequest(do="hang")
    task = asyncio.create_task(run_child_task(*ECHO, tmp_path, request, EchoOutcome))
    async with asyncio.timeout(20):
        while not (tmp_path / "pids").exists():
            await asyncio.sleep(0.02)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    await all_gone((tmp_path / "pids").read_text().split())


async def all_gone(pids: list[str]) -> None:
    async with asyncio.timeout(20):
        for pid in pids:
            while runs(pid):
                await asyncio.sleep(0.02)


def runs(pid: str) -> bool:
    """Whether it does, and is no mere entry of the dead that nobody has reaped."""
    try:
        os.kill(int(pid), 0)
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False

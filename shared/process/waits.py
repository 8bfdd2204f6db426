"""Waits of an event loop that end: in time, and when they are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import TypeVar

from penstock.shared.contracts.errors import StateStoreError

Answer = TypeVar("Answer")

FORGET_TIMEOUT_S = 2.0
"""Longest wait for the store of a process that leaves; a report that stays expires by itself."""


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for an event for at most `timeout_s`; whether it came.

    Loops that follow the store wait so: its hints may be lost, and what they announce is read now
    and then anyway.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def forget_report(forgetting: Awaitable[None], timeout_s: float = FORGET_TIMEOUT_S) -> None:
    """Take a process's report back at its end, unless the store does not answer in time."""
    with suppress(StateStoreError, TimeoutError):
        async with asyncio.timeout(timeout_s):
            await forgetting


async def cancellable(awaitable: Awaitable[Answer]) -> Answer:
    """Await something, and be cancelled if we were asked to be meanwhile.

    `asyncio.wait_for` before Python 3.12 forgets a cancellation that comes just as what it waits
    for ends, and redis sends every command by it: a task would go on for ever, and its process
    would have to be killed.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        return await awaitable
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

"""Being cancelled by libraries that forget it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

Answer = TypeVar("Answer")


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

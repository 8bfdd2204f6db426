"""Waiting for what comes true some time soon: the one way of all tests."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

PATIENCE_S = 20.0
"""Far longer than anything takes: a busy machine fails no test."""

LOOK_EVERY_S = 0.02

T = TypeVar("T")


async def eventually(
    look: Callable[[], Any], within_s: float = PATIENCE_S, what: str = "it"
) -> Any:
    """What `look` returns, once that is something; fails the test if it never is.

    Args:
        look: a function or a coroutine function, called every 20 ms.
        what: how the failure names what was waited for.
    """
    until = time.monotonic() + within_s
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < until, f"not within {within_s:.0f} s: {what}"
        await asyncio.sleep(LOOK_EVERY_S)


def wait_until(
    look: Callable[[], T],
    within_s: float = PATIENCE_S,
    what: str = "it",
    every_s: float = LOOK_EVERY_S,
) -> T:
    """The same for tests without an event loop; a look that costs much is taken less often."""
    until = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < until, f"not within {within_s:.0f} s: {what}"
        time.sleep(every_s)
    return found

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
"""At first; what takes long is looked at less often, for looking takes processors from it."""

LOOK_EVERY_S_MAX = 0.2

T = TypeVar("T")


async def eventually(
    look: Callable[[], Any], within_s: float = PATIENCE_S, what: str = "it"
) -> Any:
    """What `look` returns, once that is something; fails the test if it never is.

    Args:
        look: a function or a coroutine function, called every 20 ms at first.
        what: how the failure names what was waited for.
    """
    began = time.monotonic()
    while True:
        found = look()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(_pause_s(began, within_s, what))


def wait_until(
    look: Callable[[], T],
    within_s: float = PATIENCE_S,
    what: str = "it",
    every_s: float = LOOK_EVERY_S,
) -> T:
    """The same for tests without an event loop; a look that costs much is taken less often."""
    began = time.monotonic()
    while not (found := look()):
        time.sleep(max(_pause_s(began, within_s, what), every_s))
    return found


def _pause_s(began: float, within_s: float, what: str) -> float:
    """Until the next look: a twentieth of what was waited so far."""
    waited_s = time.monotonic() - began
    assert waited_s < within_s, f"not within {within_s:.0f} s: {what}"
    return min(max(LOOK_EVERY_S, waited_s / 20), LOOK_EVERY_S_MAX)
